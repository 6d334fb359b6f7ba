"""A study's note on its page: text and nothing else, and never a text that is lost."""

from __future__ import annotations

from ui.conftest import Dashboard, csrf
from ui.test_pages import Unsafe, new_study


def test_the_second_of_two_who_edit_gets_both_texts(dashboard: Dashboard):
    here = f"/ui/studies/{new_study(dashboard, 'edited by two')}/notes"
    with dashboard.login(dashboard.token("researcher")) as client:
        page = client.get(here).text
        assert "Nothing written yet" in page
        sent = {"Tunesmith-CSRF": csrf(page)}
        saved = client.post(here, headers=sent, data={"text": "mine\r\nis long", "version": "0"}).text
        assert '<div class="written">mine\nis long</div>' in saved
        late = client.post(here, headers=sent, data={"text": "theirs", "version": "0"}).text
        assert "Changed since you opened it." in late
        assert '<div class="written">mine\nis long</div>' in late
        assert ">\ntheirs</textarea>" in late
        both = {"text": "mine is long\ntheirs", "version": "1"}
        assert "Changed since" not in client.post(here, headers=sent, data=both).text
        assert "mine is long\ntheirs" in client.get(here).text


def test_a_note_is_text_with_links_and_nothing_else(dashboard: Dashboard):
    here = f"/ui/studies/{new_study(dashboard, 'hostile note')}/notes"
    text = '</textarea><script>alert(1)</script> javascript:alert(1) https://example.org/a"onclick=x <b>b</b>'
    with dashboard.login() as client:
        sent = {"Tunesmith-CSRF": csrf(client.get(here).text)}
        assert client.post(here, headers=sent, data={"text": text, "version": "0"}).status_code == 200
        page = client.get(here).text
    assert Unsafe(page).found == ["a to https://example.org/a"]
    assert "<b>b</b>" not in page


def test_a_viewer_reads_a_note_and_has_no_box(dashboard: Dashboard):
    here = f"/ui/studies/{new_study(dashboard, 'read by a viewer')}/notes"
    with dashboard.login(dashboard.token("viewer")) as viewer:
        page = viewer.get(here).text
        assert "textarea" not in page
        sent = {"Tunesmith-CSRF": csrf(page)}
        assert viewer.post(here, headers=sent, data={"text": "x", "version": "0"}).status_code == 403


def test_a_note_too_long_is_refused(dashboard: Dashboard):
    here = f"/ui/studies/{new_study(dashboard, 'long note')}/notes"
    with dashboard.login() as client:
        sent = {"Tunesmith-CSRF": csrf(client.get(here).text)}
        long = {"text": "x" * 20_001, "version": "0"}
        assert client.post(here, headers=sent, data=long).status_code == 422
