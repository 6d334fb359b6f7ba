"""The stages that a study may name; `kind` tells them apart."""
