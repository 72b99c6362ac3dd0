"""The service's front page, in a headless Chromium and over HTTP."""

import html
import os
import shutil

import pytest
import service
import try_page

from export.session import Classifier

SECRET = "0123456789abcdef-secret"


def test_a_photo_given_to_the_page_gets_the_answer_of_the_model(running, model, photos, browser):
    url = f"http://127.0.0.1:{running.port}/"
    status = try_page.open_page(browser, url, 420)
    assert status == f"Answered by 127.0.0.1:{running.port} on its cpu."
    try_page.choose(browser, photos[:6])
    found = try_page.answers(browser, 6)
    classifier = Classifier(model, "cpu")
    labels, probabilities = classifier(photos[:6])
    for answer, label, row in zip(found, labels, probabilities, strict=True):
        assert answer.title.startswith(f"{label} ")
        wanted = dict(zip(classifier.card.classes, row.tolist(), strict=True))
        assert answer.shares == pytest.approx(wanted, abs=1e-6)
    assert browser.run("return document.documentElement.scrollWidth") <= 420
    assert browser.run("return document.querySelectorAll('canvas[aria-label]').length") == 6
    assert not [each for each in browser.requests() if not each.startswith(("blob:", url))]


def test_the_page_of_an_ensemble_shows_a_file_whose_name_is_no_unicode(model, tmp_path):
    other = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    shutil.copyfile(model, other)
    with service.started(model, other) as running:
        page = service.ask(running.port, "/")
    assert page.status == 200
    assert "caf?.onnx" in page.body.decode()


def test_what_the_service_refuses_is_said_on_the_card(running, photos, browser, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no photo")
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(2_100_000))
    try_page.open_page(browser, f"http://127.0.0.1:{running.port}/")
    try_page.choose(browser, [broken, large, photos[0]])
    first, second, third = try_page.answers(browser, 3)
    assert first.title == second.title == "not answered"
    assert "not a readable photo" in first.text
    assert "larger than 2,000,000 bytes" in second.text
    assert third.title != "not answered"


def test_the_page_asks_for_the_token_that_the_service_asks_for(model, photos, browser, tmp_path):
    (tmp_path / "token").write_text(SECRET)
    with service.started(model, "--token_file", tmp_path / "token") as started:
        try_page.open_page(browser, f"http://127.0.0.1:{started.port}/")
        assert browser.run('return document.getElementById("door").hidden')
        try_page.choose(browser, photos[:1])
        (refused,) = try_page.answers(browser, 1)
        assert "Authorization: Bearer TOKEN" in refused.text
        assert not browser.run('return document.getElementById("door").hidden')
        browser.type("#token", SECRET)
        browser.run('document.querySelector("#door button").click()')
        try_page.choose(browser, photos[:1])
        _, answered = try_page.answers(browser, 2)
        assert answered.title != "not answered"


@pytest.mark.parametrize("name", ["page.js", "engines.js", "prepare.js", "orientation.js"])
def test_its_scripts_come_from_the_service(port, name):
    answer = service.ask(port, f"/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.body.startswith(b"// ")


def test_the_worker_of_the_static_page_is_not_part_of_it(port):
    assert service.ask(port, "/worker.js").status == 404
    page = html.unescape(service.ask(port, "/").body.decode())
    assert "script-src 'self'" in page
    assert "//" not in page
