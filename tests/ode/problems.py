"""Initial value problems with known answers, shared by the tests."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

F64 = torch.float64


def forced(t, y):
    """Non-linear, non-autonomous, two components; batches on the leading axes."""
    z, v = y[..., 0], y[..., 1]
    return torch.stack((v + 0.3 * torch.sin(2 * t), -torch.sin(z) - 0.1 * v * t), -1)


def forced_numpy(t, y):
    z, v = y
    return [v + 0.3 * np.sin(2 * t), -np.sin(z) - 0.1 * v * t]


def forced_reference(y0, times):
    """SciPy's answer at the given times, to about twelve digits."""
    solution = solve_ivp(
        forced_numpy,
        (times[0], times[-1]),
        y0,
        method="DOP853",
        t_eval=times,
        rtol=1e-12,
        atol=1e-13,
    )
    return torch.tensor(solution.y.T)
