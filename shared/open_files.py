"""How many files and connections this process may have open at once."""

from contextlib import suppress

ENOUGH_FILES = 65536


def allow_many_open_files(wanted: int = ENOUGH_FILES) -> None:
    """Raise this process's own limit of open files to ``wanted``, as far as its hard limit lets it; never lower it.

    Connections count as open files: at the usual 1024, strangers who connect and say nothing would soon leave none to
    write a picture with. Where the system has no such limit, or keeps it, nothing changes.

    Args:
        wanted: files, at least 1.
    """
    try:
        import resource  # only POSIX systems have it
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS allows less than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
