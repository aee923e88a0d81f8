"""Commands say what they do in lines of their own; the libraries' progress bars and advice would run between them."""

from contextlib import suppress
from importlib import import_module


def quiet_libraries() -> None:
    """Switch off progress bars and warnings of transformers and the hub's client, where they are installed."""
    with suppress(ImportError):
        logging = import_module("transformers.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    with suppress(ImportError):
        import_module("huggingface_hub.utils").disable_progress_bars()
