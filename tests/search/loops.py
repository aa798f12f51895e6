"""Which loops of a program may take more turns on one shard of `data` than on another; read from its jaxpr."""

from collections.abc import Sequence

import jax
from jax.extend.core import Literal

COLLECTIVES = ("psum", "psum_invariant", "pmax", "all_gather")


def loops_of(jaxpr) -> list[bool]:
    """For every loop within a shard_map over `data`: may its number of turns differ between shards?"""
    found: list[bool] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "shard_map":
            _outputs(eqn.params["jaxpr"], ["data" in str(spec) for spec in eqn.params["in_specs"]], found)
        else:
            for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                found += loops_of(inner) if hasattr(inner, "eqns") else []
    return found


def _outputs(jaxpr, inputs: Sequence[bool], loops: list[bool]) -> list[bool]:
    """Whether each output may differ between shards, given this of the inputs; notes each loop."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    differs = dict(zip(jaxpr.invars, inputs, strict=True)) | dict.fromkeys(jaxpr.constvars, False)
    of = lambda atom: False if isinstance(atom, Literal) else differs[atom]
    for eqn in jaxpr.eqns:
        differs |= dict(zip(eqn.outvars, _of_equation(eqn, [of(atom) for atom in eqn.invars], loops), strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _of_equation(eqn, inputs: list[bool], loops: list[bool]) -> list[bool]:
    name, params = eqn.primitive.name, eqn.params
    if name in COLLECTIVES and "data" in str(params.get("axes", params.get("axis_name"))):
        return [False] * len(eqn.outvars)
    if name == "while":
        of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
        cond, body, carry = inputs[:of_cond], inputs[of_cond : of_cond + of_body], inputs[of_cond + of_body :]
        step = lambda carry, loops: _outputs(params["body_jaxpr"], [*body, *carry], loops)
        carry = _settled(step, carry)
        step(carry, loops)
        loops += _outputs(params["cond_jaxpr"], [*cond, *carry], [])
        return carry
    if name == "scan":  # as often everywhere
        if "ft_in" in params:  # jax 0.11
            consts, carried = (len(list(part.vals)) for part in params["ft_in"].unpack()[:2])
        else:
            consts, carried = params["num_consts"], params["num_carry"]
        same, xs = inputs[:consts], inputs[consts + carried :]
        step = lambda carry, loops: _outputs(params["jaxpr"], [*same, *carry, *xs], loops)
        carry = _settled(lambda carry, loops: step(carry, loops)[:carried], inputs[consts : consts + carried])
        return step(carry, loops)
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr") if key in params), None)
    if inner is not None and len(getattr(inner, "jaxpr", inner).invars) == len(inputs):
        return _outputs(inner, inputs, loops)
    return [any(inputs) or (name == "axis_index" and "data" in str(params))] * len(eqn.outvars)


def _settled(step, carry: list[bool]) -> list[bool]:
    """What is carried, after as many turns as change it."""
    while (after := [a or b for a, b in zip(carry, step(carry, []), strict=True)]) != carry:
        carry = after
    return carry
