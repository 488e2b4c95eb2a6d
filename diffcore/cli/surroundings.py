"""What the operating system refuses, in one line: what, where, and what to do."""

import errno

from diffcore.errors import told

_WHOLE = "Earlier checkpoints are complete, and diffcore resume RUN continues from the newest."

ADVICE = {
    errno.ENOSPC: f"Free some space. {_WHOLE}",
    errno.EDQUOT: f"Free some space. {_WHOLE}",
    errno.EFBIG: f"Free some space, or raise the limit on the size of files. {_WHOLE}",
    errno.EIO: f"The disk may be failing. {_WHOLE}",
    errno.EACCES: "Check its permissions, or name another place.",
    errno.EPERM: "Check its permissions, or name another place.",
    errno.EROFS: "Name a place that can be written with --out.",
    errno.ENOENT: "It does not exist, or was deleted in the meantime.",
    errno.ENOTDIR: "A part of this path is a file; name another path.",
    errno.EEXIST: "Something is there already; name another place.",
    errno.EISDIR: "It is a folder; name a file.",
    errno.ENOTEMPTY: "Another program writes there; name another place.",
    errno.ENAMETOOLONG: "Use shorter names.",
    errno.ELOOP: "The links of this path form a circle; name a path without them.",
    errno.EBUSY: "Another program uses it; end that program, or name another place.",
    errno.ETXTBSY: "Another program uses it; end that program, or name another place.",
    errno.EMFILE: "Raise the limit on open files, as with ulimit -n 4096.",
    errno.ENFILE: "This machine has too many open files; end other programs.",
    errno.ENOLCK: "This file system has no locks; name a place on another one with --out.",
    errno.ESTALE: f"A network drive has lost the file; try again. {_WHOLE}",
    errno.ETIMEDOUT: f"A network drive does not answer; try again. {_WHOLE}",
    errno.ENOTCONN: f"A network drive does not answer; try again. {_WHOLE}",
    errno.ENOMEM: "Free some memory, or use smaller batches.",
    errno.EAGAIN: "This machine has too many processes; end others, or raise the limit, as with ulimit -u.",
}
"""What to do about errors of the operating system, by their number."""

_MEMORY = "; use smaller batches (--batch-size, --train.batch-size) or a smaller model, or end other programs"
_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
"""Words of PyTorch's messages when an allocation fails, in small letters."""


def reason_of(error: Exception) -> str | None:
    """What was refused, and what to do; None if `error` is neither an `OSError` nor a lack of memory."""
    if isinstance(error, OSError):
        return f"{told(error)}. {ADVICE.get(error.errno or 0, '')}".rstrip()
    if isinstance(error, MemoryError):
        return f"{told(error)}{_MEMORY}"
    if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS):
        device = "GPU" if "cuda" in str(error).lower() else "machine"
        return f"this {device} has too little memory{_MEMORY}"
    return None
