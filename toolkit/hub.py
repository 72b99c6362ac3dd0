"""The Hugging Face hub: is there a way to it?"""

import urllib.error
import urllib.request


def check_reachable(wanted: str, remedy: str) -> None:
    """Raise ConnectionError at once if the hub is out of reach; huggingface_hub would retry for a minute.

    wanted, remedy: for the message, the thing that is fetched, and what to do without the hub.
    """
    from huggingface_hub import constants

    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        pass  # an error status is an answer too: the hub is in reach
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"no way to {constants.ENDPOINT} for {wanted} ({reason}): {remedy} into this machine's hub cache "
            f"({constants.HF_HUB_CACHE})"
        ) from error
