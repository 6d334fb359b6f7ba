"""Diagnosis: what curves and stages show, as findings in plain sentences."""

from tunesmith_studies.diagnosis.errors import decomposed
from tunesmith_studies.diagnosis.stages import of_stage
from tunesmith_studies.diagnosis.trials import of_trial

__all__ = ["decomposed", "of_stage", "of_trial"]
