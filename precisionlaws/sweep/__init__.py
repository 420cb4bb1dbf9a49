"""Sweeps: from a study to a store with every point in it.

`precisionlaws.sweep` is both this package and, called, the function of `sweep.api`: Python binds a
package to its parent on import, which would otherwise hide the public function.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from precisionlaws.sweep.api import sweep

        return sweep(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
