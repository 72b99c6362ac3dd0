"""The page: what it says of the model, and what its scripts must know."""

import json
from pathlib import Path
from typing import Any

from export.ensemble import Ensemble
from export.parity.certificate import unsure_text
from export.session import Classifier
from toolkit.files import size_text
from toolkit.pages.run_text import verified_sentence

FOLDER = Path(__file__).parent

SCRIPTS = ("page.js", "engines.js", "prepare.js", "orientation.js")
"The scripts of the page. The one of the browser's own engine, worker.js, is in `WORKER`."

WORKER = "worker.js"

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; img-src blob: data:; base-uri 'none'; form-action 'none'"
)
"What the page may load: its own scripts, and nothing from elsewhere."

PLACES = {
    "browser": "The model runs in this browser. No photo leaves your device.",
    "service": "Photos are sent to the service that this page comes from. It keeps none.",
}

Model = Classifier | Ensemble


def script(name: str) -> str:
    "The text of one of the scripts."
    return (FOLDER / name).read_text(encoding="utf-8")


def page(model: Model, name: str, engine: str, **facts: Any) -> str:
    """The page's HTML.

    engine: "service" or "browser", where answers are computed. facts: more that the scripts of that engine take.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True)
    environment.filters["for_scripts"] = _for_scripts
    card = model.card
    known = {
        "engine": engine,
        "preprocess": card.preprocess,
        "threshold": card.threshold,
        "device": model.device,
        **facts,
    }
    return environment.get_template("page.html").render(
        name=name,
        count=f"{len(card.classes):,}",
        place=PLACES[engine],
        engine=engine,
        policy=POLICY,
        about=_about(model),
        file=_file(model),
        facts=known,
    )


def _for_scripts(value: Any) -> Any:
    "JSON for a script element of HTML, in which no class name can end that element."
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _about(model: Model) -> list[tuple[str, str]]:
    "Headings and texts: the preparation, the certificate, the promise."
    card = model.card
    texts = [("How a photo is prepared", f"{card.preprocess['steps']}.")]
    certificate = card.verification if isinstance(card.verification, dict) else {}
    if sentence := verified_sentence(certificate):
        texts.append(("How it was verified", sentence))
    if card.promise:
        texts.append(("When it is unsure", _promise(card.promise)))
    return texts


def _promise(promise: dict[str, Any]) -> str:
    text = f"It gives no answer below a confidence of {promise['threshold']:.1%}"
    try:
        return f"{text}. On validation photos: {unsure_text(promise)}."
    except (KeyError, TypeError, ValueError):  # a file of another program
        return f"{text}."


def _file(model: Model) -> list[tuple[str, str]]:
    "Names and values of the table about the file."
    if isinstance(model, Ensemble):
        return [("files", ", ".join(each.model.name for each in model.classifiers)), ("SHA-256", model.checksum)]
    recipe = model.card.recipe if isinstance(model.card.recipe, dict) else {}
    options = recipe.get("options") if isinstance(recipe.get("options"), dict) else {}
    rows = {
        "network": options.get("arch"),
        "recipe": recipe.get("recipe"),
        "precision": model.card.precision,
        "size": size_text(model.size),
        "licence of the pretrained weights": model.card.weights_license,
        "SHA-256": model.checksum,
    }
    return [(key, str(value)) for key, value in rows.items() if value]
