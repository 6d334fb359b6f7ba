"""What browsers get of our static files."""

from __future__ import annotations

from tunesmith_service.ui.assets import STATIC, TOGETHER, Assets


def test_scripts_that_belong_together_are_one_file_in_their_order_and_are_not_served_alone() -> None:
    assets = Assets()
    for name, stems in TOGETHER.items():
        asset = assets.get(assets.own(name))
        assert asset is not None
        assert asset.body == b"".join((STATIC / f"{stem}.js").read_bytes() for stem in stems)
    within = {f"{stem}.js" for stems in TOGETHER.values() for stem in stems}
    for file in {path.name for path in STATIC.glob("*.js")} - within:
        assert assets.get(assets.own(file)) is not None


def test_a_changed_file_has_another_name() -> None:
    assets = Assets()
    before = assets.own("app.css")
    stem, digest, suffix = before.split(".")
    assert (stem, len(digest), suffix) == ("app", 10, "css")
