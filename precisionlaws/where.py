"""`--where "P_w <= 4 and optim.lr > 1e-3"` filters rows, `D = flops / (6 * N)` makes a column: parsed and
never evaluated as code."""

import ast
import operator
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError, nearest

if TYPE_CHECKING:
    import pandas as pd

COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
COMPUTE = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
LONGEST = 1000  # characters: what is deeper than that exhausts the parser


def where(frame: "pd.DataFrame", text: str) -> "pd.DataFrame":
    """The rows that satisfy `text`: columns (dotted ones too), or arithmetic of them, compared with values; and,
    or, not, in.

    Raises: ConfigError for anything else, and for a column that the frame lacks.
    """
    tree = parsed(text)
    if tree is None:
        raise ConfigError(f"--where {text!r} cannot be read; write e.g. 'P_w <= 4 and seed == 0'")
    mask = Filter(frame, text).condition(tree)
    return frame.loc[mask]


def parsed(text: str) -> ast.expr | None:
    """None where Python cannot read it."""
    try:
        return ast.parse(text, mode="eval").body if len(text) <= LONGEST else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def arithmetic(frame: "pd.DataFrame", text: str) -> Any:
    """A column computed from others and numbers with + - * / ** and brackets, as floats.

    Raises: ConfigError for anything else, for a column that the frame lacks, and for one without numbers.
    """
    import numpy as np

    tree = parsed(text)
    if tree is None:
        raise ConfigError(f"{text!r} cannot be read; write arithmetic such as 'flops / (6 * N)'")
    with np.errstate(all="ignore"):
        return computed(frame, tree, text)


def computed(frame: "pd.DataFrame", node: ast.expr, text: str) -> Any:
    """The floats of one expression of `text`."""
    import numpy as np
    import pandas as pd

    if isinstance(node, ast.BinOp) and type(node.op) in COMPUTE:
        left, right = (computed(frame, side, text) for side in (node.left, node.right))
        return COMPUTE[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -computed(frame, node.operand, text)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return np.float64(float(node.value))  # pyright: ignore[reportArgumentType]
    if not isinstance(node, (ast.Name, ast.Attribute)):
        raise ConfigError(f"{text!r}: {ast.unparse(node)!r} is not arithmetic of columns")
    name = ast.unparse(node)
    if name not in frame:
        raise ConfigError(f"{text!r}: no column {name!r}{nearest(name, frame.columns)}")
    try:
        numbers: Any = pd.to_numeric(frame[name])
        return numbers.astype(float)
    except (ValueError, TypeError):
        raise ConfigError(f"{text!r}: column {name!r} holds text") from None


def named(node: ast.expr) -> list[ast.expr]:
    """The columns of an operand, from left to right."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        return [node]
    if isinstance(node, ast.BinOp):
        return named(node.left) + named(node.right)
    return named(node.operand) if isinstance(node, ast.UnaryOp) else []


class Filter:
    def __init__(self, frame: "pd.DataFrame", text: str):
        self.frame, self.text = frame, text

    def condition(self, node: ast.expr) -> Any:
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(v) for v in node.values]
            combine = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            out = parts[0]
            for part in parts[1:]:
                out = combine(out, part)
            return out
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.condition(node.operand)
        if isinstance(node, ast.Compare):
            return self.comparison(node)
        raise self.refused(node)

    def comparison(self, node: ast.Compare) -> Any:
        """`a < b`, and chains: 3 <= P_w <= 8."""
        out: Any = True
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, (ast.In, ast.NotIn)):
                found = self.frame[self.column(left)].isin(self.values(right))
                part = ~found if isinstance(op, ast.NotIn) else found
            elif type(op) in COMPARE:
                part = self.compared(COMPARE[type(op)], left, right)
            else:
                raise self.refused(node)
            out, left = part & out, right
        return out

    def compared(self, compare: Any, left: ast.expr, right: ast.expr) -> Any:
        columns = [n for side in (left, right) for n in named(side)]
        if not columns:
            raise self.refused(left)
        try:
            return compare(self.operand(left), self.operand(right))
        except TypeError:
            name = self.column(columns[0])
            kind = "numbers" if self.frame[name].dtype.kind in "ifb" else "text"
            raise ConfigError(
                f"--where: column {name!r} holds {kind}, which do not compare so in {self.text!r}"
            ) from None

    def operand(self, node: ast.expr) -> Any:
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self.frame[self.column(node)]
        if isinstance(node, ast.BinOp) and named(node):
            import numpy as np

            with np.errstate(all="ignore"):
                return computed(self.frame, node, self.text)
        return self.value(node)

    def column(self, node: ast.expr) -> str:
        name = ast.unparse(node)
        if not isinstance(node, (ast.Name, ast.Attribute)):
            raise self.refused(node)
        if name not in self.frame:
            raise ConfigError(f"--where: no column {name!r}{nearest(name, self.frame.columns)}")
        return name

    def values(self, node: ast.expr) -> list[Any]:
        if not isinstance(node, (ast.Tuple, ast.List)):
            raise self.refused(node)
        return [self.value(n) for n in node.elts]

    def value(self, node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise self.refused(node) from None

    def refused(self, node: ast.expr) -> ConfigError:
        return ConfigError(
            f"--where: {ast.unparse(node)!r} is not a comparison; write e.g. 'P_w <= 4 and seed == 0'"
        )
