"""The Hugging Face hub, asked whether it is there before its client retries for a minute."""

import huggingface_hub


def offline() -> bool:
    """Whether HF_HUB_OFFLINE says to read only what was downloaded before."""
    return bool(huggingface_hub.constants.is_offline_mode())


def must_answer(name: str) -> None:
    """Raise ValueError, in seconds, where the hub that is to give `name` cannot be reached."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception as error:  # whatever the HTTP client in use raises
        raise ValueError(
            f"{name!r} is no file or folder here, and the Hugging Face hub cannot be reached: "
            "check the spelling and the network (HF_HUB_OFFLINE=1 reads what was downloaded before)"
        ) from error
