"""Settings: where they come from, and what a person reads when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tunesmith_service.settings import Settings, SettingsError, load, unit_of

NO_FILE = Path("does-not-exist.toml")


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_a_default_a_unit_and_a_help_line(name):
    field = Settings.model_fields[name]
    assert not field.is_required()
    assert unit_of(name)
    assert (field.description or "").endswith(".")


def test_a_flag_wins_over_the_environment_which_wins_over_the_file_which_wins_over_the_default(tmp_path):
    file = tmp_path / "tunesmith.toml"
    file.write_text("port = 1001\nttl_seconds = 60\nsweep_seconds = 1\n[client]\nserver = 'http://x'\n")
    env = {"TUNESMITH_PORT": "1002", "TUNESMITH_TTL_SECONDS": "90"}
    found = load({"port": 1003, "ttl_seconds": None}, env, file)
    assert (found.port, found.ttl_seconds, found.sweep_seconds) == (1003, 90, 1)
    assert found.body_bytes == 2**20


def test_a_secret_may_come_in_a_file(tmp_path):
    secret = tmp_path / "database_url"
    secret.write_text("postgresql+psycopg://me:pw@db/tunesmith\n")
    found = load({}, {"TUNESMITH_DATABASE_URL_FILE": str(secret)}, NO_FILE)
    assert found.url == "postgresql+psycopg://me:pw@db/tunesmith"


def test_a_misspelt_key_in_the_file_is_named_with_the_one_that_was_meant(tmp_path):
    file = tmp_path / "tunesmith.toml"
    file.write_text("ttl_second = 60\n")
    with pytest.raises(SettingsError, match="'ttl_second', which is no setting; did you mean ttl_seconds"):
        load({}, {}, file)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "service.example.org"])
def test_listening_beyond_this_machine_needs_tls_or_a_proxy(host):
    with pytest.raises(SettingsError, match=r"tokens would travel in the clear.*--behind-proxy"):
        load({"host": host}, {}, NO_FILE)
    assert load({"host": host, "behind_proxy": True}, {}, NO_FILE).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_nothing(host):
    assert load({"host": host}, {}, NO_FILE).is_loopback


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(SettingsError, match="--tls-cert and --tls-key go together"):
        load({"tls_cert": "cert.pem"}, {}, NO_FILE)


def test_a_number_out_of_range_names_its_flag():
    with pytest.raises(SettingsError, match=r"--ttl-seconds: .*greater than or equal to 1"):
        load({}, {"TUNESMITH_TTL_SECONDS": "0.1"}, NO_FILE)


def test_hosts_may_be_listed_with_commas():
    assert load({}, {"TUNESMITH_ALLOWED_HOSTS": "Service, lab.example.org"}, NO_FILE).allowed_hosts == (
        "service",
        "lab.example.org",
    )


def test_the_prefix_is_the_path_of_how_people_reach_the_server():
    for path in ("", "/lab/tunesmith"):
        assert load({"public_url": f"https://lab.example.org{path}/"}, {}, NO_FILE).prefix == path
    rooted = load({"root_path": "/lab/tunesmith/"}, {}, NO_FILE)
    assert (rooted.prefix, rooted.address) == ("/lab/tunesmith", "http://127.0.0.1:8787/lab/tunesmith")


@pytest.mark.parametrize(
    "path", ["lab", "/lab//tunesmith", "/lab/../x", "/lab/%2e", "/ui", "/api/x", "/la b", '/"><script>']
)
def test_a_prefix_that_cannot_be_one_is_refused(path):
    with pytest.raises(SettingsError, match="cannot be a prefix"):
        load({"root_path": path}, {}, NO_FILE)


def test_two_prefixes_that_differ_are_refused():
    with pytest.raises(SettingsError, match="do not end alike"):
        load({"root_path": "/lab", "public_url": "https://lab.example.org"}, {}, NO_FILE)


@pytest.mark.parametrize(("ttl", "sweep"), [(1, 2), (2, 2), (2.9, 2)])
def test_leases_shorter_than_the_sweeps_are_refused(ttl, sweep):
    """Each round would come later than a lease lives, which looks like an outage and prolongs them all."""
    with pytest.raises(SettingsError, match=r"too short for --sweep-seconds 2.* or more often"):
        load({"ttl_seconds": ttl, "sweep_seconds": sweep}, {}, NO_FILE)
    assert load({"ttl_seconds": ttl, "sweep_seconds": ttl / 2}, {}, NO_FILE).ttl_seconds == ttl
