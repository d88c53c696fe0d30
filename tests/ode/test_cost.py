"""What a step costs beyond f, in counts: operations, and read-backs that would stop a GPU."""

import pytest
import torch

from companion import FixedStep, solve
from tests.ode.operations import Operations

Y0 = torch.ones(64, 2)


def count(times, **options):
    with torch.no_grad(), Operations() as operations:
        sol = solve(lambda t, y: y, Y0, times, **options)
    return operations.counts, sol.stats


def difference(options):
    """Operations of ten more steps: what a solve costs once does not count."""
    few, before = count([0.0, 1.0], **options(5))
    many, after = count([0.0, 1.0], **options(15))
    steps = after.accepted + after.rejected - before.accepted - before.rejected
    return {name: (many[name] - few[name]) / steps for name in many}


def test_an_adaptive_step_reads_back_one_number():
    few, before = count([0.0, 0.5], rtol=1e-3, first_step=1e-3)
    many, after = count([0.0, 0.5], rtol=1e-10, first_step=1e-3)
    steps = after.accepted + after.rejected - before.accepted - before.rejected
    assert steps > 3
    assert many["_local_scalar_dense"] - few["_local_scalar_dense"] == steps


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_a_fixed_step_reads_back_nothing(method):
    per_step = difference(lambda steps: {"method": method, "control": FixedStep(1 / steps)})
    assert per_step["_local_scalar_dense"] == 0
    # Fused multiply-adds for the stages, fills for their times, and not one operation more.
    additions = {"euler": 1, "rk4": 3 + 4, "dopri5": 1 + 2 + 3 + 4 + 5 + 5}
    stages = {"euler": 1, "rk4": 4, "dopri5": 6}
    assert per_step["add"] + per_step.get("add_", 0) == additions[method]
    assert per_step["new_full"] == stages[method]
    assert sum(per_step.values()) == additions[method] + stages[method]


def test_outputs_cost_no_evaluations_and_no_steps():
    plain, stats = count([0.0, 1.0])
    dense, more = count([i / 50 for i in range(51)])
    assert more == stats
    assert dense["_local_scalar_dense"] == plain["_local_scalar_dense"]


def test_an_adaptive_step_of_dopri5_takes_forty_operations():
    """Six evaluations' times, stages, error estimate and its norm; torchdiffeq takes 196."""
    few, before = count([0.0, 0.5], rtol=1e-3, first_step=1e-3)
    many, after = count([0.0, 0.5], rtol=1e-10, first_step=1e-3)
    steps = after.accepted + after.rejected - before.accepted - before.rejected
    assert sum(many[name] - few[name] for name in many) <= 40 * steps
