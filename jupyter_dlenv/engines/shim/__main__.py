"""Makes a package of the folder that an interpreter was given to run, without a look at what lies around it."""

import sys
from importlib import import_module

package = type(sys)("shim")
package.__path__ = [sys.path.pop(0)]
sys.modules["shim"] = package
sys.exit(import_module("shim.supervisor").main(*sys.argv[1:]))
