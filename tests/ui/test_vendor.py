import json

from tunesmith_service.ui import vendor
from tunesmith_service.ui.assets import Assets


def test_vendored_files_are_those_that_the_lock_names_to_the_byte():
    assert vendor.problems() == []


def test_a_changed_vendored_file_is_noticed(tmp_path, monkeypatch):
    for path in vendor.VENDOR.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "htmx-2.0.11.min.js").write_bytes(b"alert(1)")
    (tmp_path / "extra.js").write_bytes(b"")
    monkeypatch.setattr(vendor, "VENDOR", tmp_path)
    told = vendor.problems()
    assert len(told) == 2
    assert told[0] == "extra.js is in static/vendor but not in the lock"
    assert told[1].startswith("htmx-2.0.11.min.js has sha256 ")


def test_third_party_names_every_vendored_package_and_version():
    third_party = (vendor.HERE.parents[2] / "THIRD_PARTY.md").read_text()
    for package in json.loads(vendor.LOCK.read_text()).values():
        assert f"| {package['version']} | " in third_party


def test_a_static_name_changes_with_its_content():
    assets = Assets()
    name = assets.own("app.css")
    assert name.startswith("app.")
    assert len(name) == len("app.0123456789.css")
    asset = assets.get(name)
    assert asset is not None
    assert asset.media_type.startswith("text/css")
    assert len(asset.gzipped) < len(asset.body)
    assert assets.get("../vendor.lock.json") is None
