"""From groups of trajectories to new params.

`batching.pack` crosses from host to device; `learner.make_update` is one
jitted step: `credit` (rewards to advantages), `losses` (advantages to a loss),
then the optimizer. `imitation.make_update` is the same step with a supervised
loss.
"""
