"""`--where "P_w <= 4 and optim.lr > 1e-3"`: a filter of frame rows, parsed and never evaluated as code."""

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


def where(frame: "pd.DataFrame", text: str) -> "pd.DataFrame":
    """The rows that satisfy `text`: columns (dotted ones too) compared with values; and, or, not, in.

    Raises: ConfigError for anything else, and for a column that the frame lacks.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise ConfigError(
            f"--where {text!r} cannot be read; write e.g. 'P_w <= 4 and seed == 0'"
        ) from None
    mask = Filter(frame, text).condition(tree)
    return frame.loc[mask].reset_index(drop=True)


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
        columns = [n for n in (left, right) if isinstance(n, (ast.Name, ast.Attribute))]
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
