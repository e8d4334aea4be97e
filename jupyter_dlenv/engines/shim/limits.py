"""Numbers that the parts of the shim share."""

import errno

CHUNK = 1 << 20
POLL_S = (0.02, 0.05)
LOOK_S = 0.2  # between looks for a stop request, new rank files and a changed open line
LINE_S = 0.05  # between looks for open lines while the log grows, with which they get old
GANG_S = 0.5  # between looks at the other replicas
FINISH_S = 5.0  # how long the last lines and the result wait for a disk that refuses them
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM)
