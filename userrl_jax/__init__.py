"""Trains language-model agents that help people over many turns, in JAX.

The flow, and where each part lives:

  tasks -> Episode (Agent, Gym, user) -> Trajectory -> Group -> Batch -> update
  data     rollout, agents, gyms, users  types                  learning

`train.py` is that line as a loop. `evaluate.py` measures, `report.py` shows,
`compare.py` compares.
"""

__version__ = "0.1.0"
