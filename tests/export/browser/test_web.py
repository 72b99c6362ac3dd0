"""export.web: the page that computes a model in the browser, in a headless Chromium."""

import json
import os
import shutil
import time

import numpy as np
import onnx
import pytest
import try_page
from browser import Browser

import export.browser.site
from export.session import Classifier
from export.web import web

BOUND = 2e-3  # which docs/web.md states: of a probability, against export.predict


def write(folder, model, package):
    return web(model, folder / "site", runtime=package)


@pytest.fixture(scope="module")
def site(digits_run, package, tmp_path_factory):
    return write(tmp_path_factory.mktemp("digits"), digits_run.path("model.onnx"), package)


@pytest.fixture(scope="module")
def photos(digits_run):
    return sorted(digits_run.dataset().valid)[::27]


@pytest.fixture(scope="module")
def graphics():
    "A browser with a GPU that the processor imitates, and a camera that shows a test picture."

    class Equipped(Browser):
        FLAGS = Browser.FLAGS.replace("--disable-gpu ", "") + (
            " --enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-unsafe-swiftshader"
            " --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
        )

    if not shutil.which("chromedriver"):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    opened = Equipped(shutil.which("chromedriver"))
    yield opened
    opened.close()


def changed(model, path, **metadata):
    "A copy of a model file with other metadata."
    proto = onnx.load(model)
    found = {each.key: each.value for each in proto.metadata_props}
    onnx.helper.set_model_props(proto, found | {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(proto, path)
    return path


def compare(found, model, files):
    "Assert that the page gave the labels of Python; return the largest difference of a probability."
    labels, probabilities = Classifier(model, "cpu")(files)
    for answer, label, row, file in zip(found, labels, probabilities, files, strict=True):
        name, _, share = answer.title.removesuffix("\u00a0%").rpartition(" ")
        assert name == label, file
        assert float(share) == pytest.approx(100 * row.max(), abs=0.06 + 100 * BOUND)
    names = Classifier(model, "cpu").card.classes
    there = np.array([[answer.shares[name] for name in names] for answer in found])
    return np.abs(there - probabilities).max()


def test_the_page_gives_the_answers_of_python_and_asks_no_one_else(site, photos, browser):
    with try_page.served(site) as url:
        status = try_page.open_page(browser, url)
        assert status.startswith(
            "Computed by WebAssembly in 1 thread. A test pattern gave the probabilities of Python within "
        )
        try_page.choose(browser, photos)
        found = try_page.answers(browser, len(photos))
        assert compare(found, site / "model.onnx", photos) < 1e-5
        assert {each for each in browser.requests() if not each.startswith(("blob:", url))} == set()


def test_a_page_that_is_isolated_computes_in_threads(site, photos, browser):
    isolated = {"Cross_Origin_Opener_Policy": "same-origin", "Cross_Origin_Embedder_Policy": "require-corp"}
    with try_page.served(site, **isolated) as url:
        status, cores = try_page.open_page(browser, url), browser.run("return navigator.hardwareConcurrency")
        assert f"WebAssembly in {min(4, cores)} thread" in status
        try_page.choose(browser, photos[:3])
        assert compare(try_page.answers(browser, 3), site / "model.onnx", photos[:3]) < 1e-5


@pytest.mark.long
def test_webgpu_gives_them_too_and_is_named(site, photos, graphics):
    with try_page.served(site) as url:
        status = try_page.open_page(graphics, url + "?device=webgpu")
        if "this browser has no WebGPU here" in status:
            pytest.skip("needs a Chromium whose WebGPU the processor can imitate (SwiftShader)")
        assert "by WebGPU." in status
        try_page.choose(graphics, photos[:3])
        assert compare(try_page.answers(graphics, 3), site / "model.onnx", photos[:3]) < 1e-3
        assert "by WebAssembly" in try_page.open_page(graphics, url + "?device=wasm")


def test_a_browser_without_webgpu_says_so_if_it_is_asked_for(site, browser):
    with try_page.served(site) as url:
        assert try_page.open_page(browser, url + "?device=webgpu") == (
            "The model can't be used: this browser has no WebGPU here"
        )


@pytest.mark.long
def test_the_camera_gives_a_photo(site, graphics):
    with try_page.served(site) as url:
        try_page.open_page(graphics, url)
        graphics.run('document.getElementById("camera").click()')
        try_page.wait(graphics, 'return document.getElementById("video").videoWidth > 0')
        graphics.run('document.getElementById("take").click()')
        (found,) = try_page.answers(graphics, 1)
        assert "camera" in found.text
        assert sum(found.shares.values()) == pytest.approx(1, abs=1e-4)
        graphics.run('document.getElementById("stop").click()')
        assert graphics.run('return document.getElementById("live").hidden')


@pytest.mark.long
def test_on_groceries_the_labels_are_those_of_python(grocery, mobilenet_weights, package, browser, tmp_path):
    from export.to_onnx import to_onnx
    from recipes import rapid
    from toolkit.training.begin import begin
    from toolkit.training.evaluate import evaluate
    from toolkit.training.fit import fit

    learn = rapid.learner(
        grocery, arch="mobilenetv2_100", weights=mobilenet_weights, image_size=64, epochs=1, device="cpu"
    )
    run = begin(tmp_path / "run", learn)
    fit(learn, run, 1)
    evaluate(learn, run)
    to_onnx(run.folder, device="cpu")
    model, files = run.path("model.onnx"), sorted((grocery / "test").iterdir())
    assert len(files) == 500
    with try_page.served(write(tmp_path, model, package)) as url:
        try_page.open_page(browser, url)
        try_page.choose(browser, files)
        found = try_page.answers(browser, len(files))
    difference = compare(found, model, files)
    print(f"largest difference of a probability: {difference:.1e}")
    assert difference < BOUND


def test_a_photo_below_the_promise_is_unsure(digits_run, package, photos, browser, tmp_path):
    model = changed(
        digits_run.path("model.onnx"), tmp_path / "promise.onnx", promise={"promise": 0.9, "threshold": 0.97}
    )
    labels, probabilities = Classifier(model, "cpu")(photos)
    unsure = probabilities.max(1) < 0.97
    assert 0 < unsure.sum() < len(photos)
    with try_page.served(write(tmp_path, model, package)) as url:
        try_page.open_page(browser, url)
        try_page.choose(browser, photos)
        found = try_page.answers(browser, len(photos))
        about = browser.run("return document.querySelector(\"section[aria-label='About the model']\").textContent")
    assert [each.title.startswith("unsure") for each in found] == unsure.tolist()
    assert all(label in each.text for each, label in zip(found, labels, strict=True))
    assert "It gives no answer below a confidence of 97.0%." in about


def test_what_is_no_photo_gets_a_reason_and_the_next_one_an_answer(site, photos, browser, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    with try_page.served(site) as url:
        try_page.open_page(browser, url)
        try_page.choose(browser, [tmp_path / "notes.jpg", photos[0]])
        first, second = try_page.answers(browser, 2)
    assert first.title == "not answered"
    assert "This browser can't read it as a photo." in first.text
    assert compare([second], site / "model.onnx", photos[:1]) < 1e-5


def test_a_model_that_was_cut_short_or_computes_something_else_is_refused(site, photos, browser, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    page, model = (copy / "index.html").read_text(), (site / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(model[:-100])
    with try_page.served(copy) as url:
        assert "it was cut short or replaced" in try_page.open_page(browser, url)
        (copy / "model.onnx").write_bytes(model)
        later = time.time() + 60  # else both are of the same second to the file server
        os.utime(copy / "model.onnx", (later, later))
        start = page.index('"probabilities": [') + len('"probabilities": [')
        (copy / "index.html").write_text(page[:start] + "0.987, " + page[page.index(",", start) + 1 :])
        assert "a test pattern gives a probability that is" in try_page.open_page(browser, url + "?again")
        try_page.give(browser, photos[0], "drop")
        (refused,) = try_page.answers(browser, 1)
        assert refused.title == "not answered"
        assert "a test pattern gives a probability that is" in refused.text


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted_before_the_model_is_there(site, photos, browser, tmp_path, how):
    (tmp_path / "empty.png").touch()
    with try_page.served(site) as url:
        browser.open_url(url)
        try_page.give(browser, photos[0], how)
        try_page.give(browser, tmp_path / "empty.png", how)
        answered, empty = try_page.answers(browser, 2)
    assert compare([answered], site / "model.onnx", photos[:1]) < 1e-5
    assert "The file is empty." in empty.text


def test_hostile_class_names_are_shown_as_they_are(digits_run, package, photos, browser, tmp_path):
    names = ["</script><b>x", "<!--", "&amp;", '"', "'", "\u202eabc", "`${1}`", "__proto__", "9", "10"]
    model = changed(digits_run.path("model.onnx"), tmp_path / "names.onnx", classes=names)
    with try_page.served(write(tmp_path, model, package)) as url:
        try_page.open_page(browser, url)
        try_page.choose(browser, photos[:3])
        found = try_page.answers(browser, 3)
        injected = 'return document.querySelectorAll("span b, bdi b, p b, script:not([id]):not([src])").length'
        assert browser.run(injected) == 0
    for answer in found:
        assert set(answer.shares) == set(names) - {"__proto__"}  # an object of JavaScript can't hold that key
        assert "__proto__" in answer.text


@pytest.mark.parametrize("width", [320, 420, 1000])
def test_it_fits_a_phone_and_is_made_for_keyboards_and_readers(site, photos, browser, width):
    with try_page.served(site) as url:
        try_page.open_page(browser, url, width)
        try_page.choose(browser, photos[:2])
        try_page.answers(browser, 2)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run('return [...document.querySelectorAll("img, canvas")].length') == 4
        nameless = 'img:not([alt]), img[alt=""], canvas:not([aria-label]), input:not([hidden]):not([id])'
        assert browser.run("return document.querySelectorAll(arguments[0]).length", nameless) == 0
        browser.run("document.activeElement.blur()")
        reached = []
        for _ in range(6):
            browser.press("Tab")
            reached.append(browser.run("return document.activeElement.id || document.activeElement.localName"))
        assert reached[:3] == ["choose", "camera", "summary"]
        outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_dark_and_light(site, browser):
    with try_page.served(site) as url:
        shades = []
        for dark in (False, True):
            try_page.open_page(browser, url, dark=dark)
            shades.append(browser.screenshot()[5, 5].mean())
    assert shades[0] > 240
    assert shades[1] < 40


def test_the_folder_holds_no_path_of_this_machine(digits_run, package, tmp_path):
    recipe = {"recipe": "average", "options": {}, "models": [{"recipe": digits_run.recipe | {"data": None}}]}
    average = changed(digits_run.path("model.onnx"), tmp_path / "average.onnx", recipe=recipe)
    proto = onnx.load(average)
    proto.graph.node[0].doc_string = proto.graph.doc_string = f"{digits_run.folder}/model.py, line 3"
    onnx.save(proto, average)
    secret = str(digits_run.folder.parent).encode()
    assert average.read_bytes().count(secret) >= 3
    for file in write(tmp_path, average, package).rglob("*"):
        assert file.is_dir() or secret not in file.read_bytes(), file


def test_no_file_needs_a_type_that_file_servers_may_not_know(site):
    suffixes = {path.suffix for path in site.rglob("*") if path.is_file()}
    assert suffixes == {".html", ".js", ".wasm", ".onnx"}  # of these a browser asks .html, .js and .wasm for a type


def test_a_folder_with_other_files_is_left_alone_and_its_own_is_written_again(site, digits_run, package, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    before = (copy / "index.html").read_bytes()
    (copy / "page.js").write_text("damaged")
    write(tmp_path, digits_run.path("model.onnx"), package)
    assert (copy / "index.html").read_bytes() == before
    assert (copy / "page.js").read_bytes() == (site / "page.js").read_bytes()
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which export\.web did not write"):
        write(tmp_path, digits_run.path("model.onnx"), package)
    assert (copy / "notes.txt").read_text() == "mine"
    assert (copy / "index.html").read_bytes() == before


def test_a_page_whose_writing_was_interrupted_is_written_again(digits_run, package, tmp_path, monkeypatch):
    def full(*given):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export.browser.site, "unpack", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, digits_run.path("model.onnx"), package)
    assert "being written" in (tmp_path / "site" / "index.html").read_text()
    write(tmp_path, digits_run.path("model.onnx"), package)
    assert "worker.js" in {path.name for path in (tmp_path / "site").iterdir()}


def test_a_model_of_another_precision_or_none_writes_nothing(digits_run, package, tmp_path):
    odd = changed(digits_run.path("model.onnx"), tmp_path / "odd.onnx", precision="fp4")
    with pytest.raises(ValueError, match="has the precision 'fp4', expected fp32, fp16, int8"):
        write(tmp_path, odd, package)
    with pytest.raises(FileNotFoundError, match="no such file"):
        web(tmp_path / "typo.onnx", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_another_package_is_refused(digits_run, tmp_path):
    other = tmp_path / "onnxruntime-web-1.30.0.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"is not onnxruntime-web 1\.30\.0 as npm has it"):
        web(digits_run.path("model.onnx"), tmp_path / "site", runtime=other)
    assert not (tmp_path / "site").exists()


def test_without_npm_it_says_how_to_get_the_package(digits_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"is brought by npm, which is missing: install Node\.js, or give --runtime"):
        web(digits_run.path("model.onnx"), tmp_path / "site")


def test_an_npm_that_fails_is_told(digits_run, tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network is down' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(OSError, match=r"npm can't bring onnxruntime-web 1\.30\.0 \(npm error network is down\)"):
        web(digits_run.path("model.onnx"), tmp_path / "site")


def test_the_picture_of_what_the_network_sees_is_the_prepared_photo(site, photos, browser):
    from export.reading.prepare import prepared

    with try_page.served(site) as url:
        try_page.open_page(browser, url)
        try_page.choose(browser, photos[:1])
        try_page.answers(browser, 1)
        pixels = browser.run(
            'const canvas = document.querySelector("canvas"); const {width, height} = canvas;'
            'return [...canvas.getContext("2d").getImageData(0, 0, width, height).data]'
        )
    wanted = prepared(photos[0], Classifier(site / "model.onnx", "cpu").card.preprocess)
    shown = np.array(pixels).reshape(*wanted.shape[:2], 4)
    assert (shown[..., 3] == 255).all()
    assert wanted.std() > 10
    assert np.abs(shown[..., :3] - wanted).max() <= 1
