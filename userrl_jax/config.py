"""Every knob of a run, typed, with its unit; knows no JAX.

A recipe in `configs/` returns a `Config`; flags change single fields
(`--config.grpo.group_size=16`). `config_rules` refuses impossible mixes before
anything compiles. Only entry points see the whole `Config`.
"""

import dataclasses

from userrl_jax import config_gyms
from userrl_jax import config_hosts
from userrl_jax import config_selection


@dataclasses.dataclass
class Model:
  """Which policy is trained."""

  # A name in models.qwen3.PRESETS; empty: the folder alone gives the shape.
  preset: str = "qwen3_tiny"
  folder: str = ""  # published weights to start from: config.json, safetensors
  num_layers: int = 0  # 0 keeps the preset's; else cuts or grows its depth
  dtype: str = "float32"  # compute dtype: float32 or bfloat16
  # Of packed rows: xla, cudnn (GPU), splash (TPU), or auto: what suits.
  attention: str = "auto"
  remat: str = "none"  # none, or full: recompute each layer going backward


@dataclasses.dataclass
class Lora:
  """Low-rank adapters, trained by every stage but base in place of params."""

  rank: int = 0  # 0 trains all params
  alpha: float = 16.0  # adapters weigh alpha / rank
  # Matrices of each layer that get one: q, k, v, o, gate, up, down.
  targets: tuple[str, ...] = ()


@dataclasses.dataclass
class Tokenizer:
  """Which text is which id."""

  kind: str = "sentencepiece"  # sentencepiece (built in) or huggingface
  folder: str = ""  # huggingface: a folder with tokenizer.json
  vocab_size: int = 512  # sentencepiece: pieces, special tokens included


@dataclasses.dataclass
class Chat:
  """How a dialogue is written down."""

  profile: str = "brief"  # prompt texts and tool block: full or brief
  # Turns may begin with a think block; False opens each of them with an empty
  # one, which is read and not sampled (Qwen3's enable_thinking=False).
  thinking: bool = True
  show_reward: bool = False  # append "Reward: r" to every observation


@dataclasses.dataclass
class Gyms:
  """Where tasks come from."""

  names: tuple[str, ...] = ("function",)
  levels: tuple[int, ...] = (1,)
  tasks: str = "generated"  # generated, pack, or a folder of released files
  num_train_tasks: int = 512  # generated: how many; pack and folder: at most
  num_test_tasks: int = 128  # of every other split
  max_turns: int = 6  # turns the gym allows
  reward_profile: str = "default"
  function: config_gyms.Function = dataclasses.field(
    default_factory=config_gyms.Function
  )
  intention: config_gyms.Intention = dataclasses.field(
    default_factory=config_gyms.Intention
  )
  persuade: config_gyms.Persuade = dataclasses.field(
    default_factory=config_gyms.Persuade
  )
  search: config_gyms.Search = dataclasses.field(
    default_factory=config_gyms.Search
  )
  tau: config_gyms.Tau = dataclasses.field(default_factory=config_gyms.Tau)
  telepathy: config_gyms.Telepathy = dataclasses.field(
    default_factory=config_gyms.Telepathy
  )
  travel: config_gyms.Travel = dataclasses.field(
    default_factory=config_gyms.Travel
  )
  turtle: config_gyms.Turtle = dataclasses.field(
    default_factory=config_gyms.Turtle
  )


@dataclasses.dataclass
class User:
  """Who answers the agent in gyms where someone does."""

  # scripted (rules), endpoint (a model elsewhere), local (one in this process).
  kind: str = "scripted"
  base_url: str = ""  # endpoint: such as http://localhost:8000/v1
  # endpoint: the name it knows the model by; local: a folder, of a run or of
  # published weights.
  model: str = ""
  api_key_env: str = "OPENAI_API_KEY"  # variable of the environment
  temperature: float = 0.0
  max_tokens: int = 256  # of a reply
  timeout_s: float = 10.0  # one request
  num_retries: int = 2  # of a request that failed on the way
  num_reasks: int = 2  # of a reply that is no verdict
  structured: bool = False  # ask for a verdict's JSON schema, where it can
  max_concurrent: int = 32  # requests under way, of all roles and hosts
  requests_per_minute: int = 0  # of all roles and hosts; 0 is no limit
  tokens_per_minute: int = 0  # in and out, of all of them; 0 is no limit
  max_outage_s: float = 0.0  # wait so long for one that is down; 0: do not
  usd_per_million_in: float = 0.0  # price of tokens that the model reads
  usd_per_million_out: float = 0.0  # and of those that it writes
  # Kinds of users that episodes are drawn from, such as plain=3,noisy,wrong:
  # see users.profiles. Empty: users as their gyms have them.
  profiles: tuple[str, ...] = ()
  # A model's words that tell what is undisclosed are a fault: at once (fault),
  # or after asking again num_reasks times (reask).
  on_leak: str = "reask"


@dataclasses.dataclass
class Judge:
  """Another model that judges; what has no field is as in section user."""

  model: str = ""  # empty: the model of the user judges as well
  base_url: str = ""  # empty: that of the user
  api_key_env: str = ""  # variable of the environment; empty: that of the user
  temperature: float = 0.0
  max_tokens: int = 256  # of a verdict
  usd_per_million_in: float = 0.0  # price of tokens that the model reads
  usd_per_million_out: float = 0.0  # and of those that it writes


@dataclasses.dataclass
class Agent:
  """A model behind an endpoint that plays, as evaluation.agent=endpoint.

  What has no field is as in section user; its temperature is evaluation's, and
  the tokens of its turns are rollout's.
  """

  model: str = ""  # the name that the endpoint knows it by
  base_url: str = ""  # empty: that of the user
  api_key_env: str = ""  # variable of the environment; empty: that of the user
  timeout_s: float = 60.0  # one request
  # Tools go with the request, and calls come back as such; False writes both
  # as text, for endpoints that know none.
  tools: bool = True
  usd_per_million_in: float = 0.0  # price of tokens that the model reads
  usd_per_million_out: float = 0.0  # and of those that it writes


@dataclasses.dataclass
class Recording:
  """Answers of endpoints, kept so that a run can be played again offline."""

  mode: str = "live"  # live, record, replay or replay_or_live
  file: str = ""  # SQLite; one file for a run, or for several that are replayed


@dataclasses.dataclass
class Budget:
  """What endpoints may cost in a run, resumed ones included; 0 is no limit."""

  max_usd: float = 0.0  # at the prices of sections user, judge and agent
  max_tokens: int = 0  # in and out
  max_calls: int = 0  # requests that were sent, retries included


@dataclasses.dataclass
class Rollout:
  """Limits of one episode."""

  max_tokens_per_turn: int = 48
  max_tokens_per_episode: int = 512  # prompt, sampled and read ids together
  temperature: float = 1.0
  # Iterations that collection may run ahead of the update; 0 is on-policy.
  max_staleness: int = 0
  max_malformed: int = 2  # malformed calls answered with a reminder
  step_timeout_s: float = 60.0  # one gym step, its user included
  agent_timeout_s: float = 0.0  # one turn of the agent and its queue; 0: none
  num_retries: int = 2  # of a gym step that failed without changing state
  max_invalid_share: float = 0.2  # of episodes; above it the run stops


@dataclasses.dataclass
class Engine:
  """Shapes of the sampler: of each device that has rows of its own."""

  num_rows: int = 128  # KV rows: histories that are kept; 0: all that fit
  num_lanes: int = 64  # rows that decode together; 0: as many as rows
  decode_tokens: int = 16  # tokens a lane may sample in one device call
  extend_chunk: int = 128  # ids a row may read in one device call
  extend_tokens: int = 256  # ids that all rows together may read in one
  # With all rows taken: wait, or give_up one whose user thinks and read again.
  when_full: str = "wait"


@dataclasses.dataclass
class Local:
  """Models in this process as user and judge: user.kind local."""

  max_length: int = 2048  # ids of a prompt and its reply
  dtype: str = "auto"  # float32, bfloat16; auto: as the folder has it
  thinking: bool = False  # replies may begin with a think block
  num_rows: int = 32  # requests sampled at once, on each device
  devices: str = "share"  # with the policy's sampler, or apart: half each


@dataclasses.dataclass
class Credit:
  """How rewards become advantages."""

  score: str = "r2g"  # mean, sum or r2g
  # equalized, naive, r2g, em, or learned: information or predicted
  credit: str = "equalized"
  gamma: float = 0.8
  em_k: float = 2.0
  normalize: str = "std"  # std (n-1), std_n (n), leave_one_out or none
  spread: str = "scaled"  # scaled, signed, or printed as in the paper
  released: bool = False  # rounding and groups of one as in UserRL's code
  turn_penalty: float = 0.0  # taken off the score, a turn
  length_penalty: float = 0.0  # taken off the score, 1000 sampled tokens
  free_tokens: int = 0  # sampled tokens before length_penalty begins
  reward_scale: str = "raw"  # raw, or share of the most a task can give
  gym_scales: tuple[str, ...] = ()  # factors of rewards, such as travel=0.5
  hold_until: int = 0  # turn, from 1, that pays what is earned before; 0: none


@dataclasses.dataclass
class Optimizer:
  """AdamW or Muon, with a warm-up."""

  name: str = "adamw"  # or muon, which takes the layers' matrices
  learning_rate: float = 1e-3
  schedule: str = "constant"  # constant, or cosine to a tenth
  warmup_steps: int = 0
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 0.0
  decay_all: bool = False  # also norms and embeddings, as UserRL's code does
  max_grad_norm: float = 1.0


@dataclasses.dataclass
class Packing:
  """Shapes of a training batch."""

  row_length: int = 512  # tokens of a packed row
  rows_per_micro_batch: int = 8
  logprob_chunk: int = 128  # sampled positions a row whose logits coexist


@dataclasses.dataclass
class Base:
  """Pretraining of a random model: the format, and copying from context."""

  num_steps: int = 200
  num_episodes: int = 2048  # dialogues of random canned moves
  num_copies: int = 0  # sequences that repeat themselves, mixed in
  episodes_per_step: int = 64
  optimizer: Optimizer = dataclasses.field(
    default_factory=lambda: Optimizer(learning_rate=3e-3, warmup_steps=20)
  )


@dataclasses.dataclass
class ColdStart:
  """Supervised fine-tuning on ranked demonstrations."""

  # What is imitated: oracle (its play, made here), or dialogues of a .jsonl
  # file (ours), a .json file (ShareGPT) or a folder of them.
  source: str = "oracle"
  num_steps: int = 200
  num_epochs: int = 0  # over the demonstrations, in place of num_steps; 0: not
  num_tasks: int = 0  # training tasks that are demonstrated; 0 is all
  num_tries: int = 2  # demonstrations made a task
  top_k: int = 1  # of them kept, best first
  min_score: float = 0.0  # those with less are left out; 0 earned something
  noise: float = 0.15  # share of turns with a random canned move
  episodes_per_step: int = 64
  optimizer: Optimizer = dataclasses.field(
    default_factory=lambda: Optimizer(
      learning_rate=1e-3, schedule="cosine", warmup_steps=20
    )
  )


@dataclasses.dataclass
class Grpo:
  """Multi-turn GRPO."""

  num_iterations: int = 30
  tasks_per_iteration: int = 16
  group_size: int = 8
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 3.0
  loss: str = "ppo"  # ppo, gspo (ratios of trajectories), cispo or plain
  # Tokens weigh alike (token_mean), trajectories do (sequence_mean), or each
  # trajectory counts as loss_length tokens (constant_length).
  aggregation: str = "token_mean"
  loss_length: int = 512  # tokens, with constant_length
  kl_coef: float = 0.0  # of the KL to the stage's first params; 0 is none
  kl_estimator: str = "k3"  # k1, k2 or k3
  entropy_coef: float = 0.0  # of the bonus; 0 is none
  # Ratios start from the learner's log-probs, and tokens weigh at most this
  # many times for the sampler's being others; 0: from the sampler's, unweighed.
  importance_cap: float = 0.0
  num_mini_batches: int = 1  # optimizer steps an iteration
  flat_groups: str = "keep"  # keep, drop, or refill with other tasks
  refill_rounds: int = 2  # with refill: times that what is missing is played
  overlong: str = "train"  # trajectories cut by a token budget: train or mask
  credit: Credit = dataclasses.field(default_factory=Credit)
  optimizer: Optimizer = dataclasses.field(
    default_factory=lambda: Optimizer(learning_rate=3e-4)
  )


@dataclasses.dataclass
class Comparison:
  """Lengths of the arms that GRPO after a cold start is compared with.

  An arm is a further stage of the same run. `continued_updates` and
  `rl_only_updates` compare at equal updates, `grpo.num_iterations` of them, and
  have no field here; the others may take as long as GRPO does.
  """

  continued_steps: int = 400  # stage continued: the cold start goes on
  rl_only_iterations: int = 60  # stage rl_only: GRPO from the base model


@dataclasses.dataclass
class Evaluation:
  """Measuring on held-out tasks."""

  # Who plays: policy, oracle, canned (random moves), or endpoint (a model that
  # section agent names).
  agent: str = "policy"
  splits: tuple[str, ...] = ("test",)  # of fresh, dev, test (and train)
  held_out_gyms: tuple[str, ...] = ()  # played here, and never trained on
  num_tasks: int = 128  # of each gym and split
  num_attempts: int = 1  # episodes a task
  # Kinds of users, each of which meets every task num_attempts times; scores
  # are told apart. Empty: users as user.profiles draws them.
  profiles: tuple[str, ...] = ()
  temperature: float = 1.0  # 0 takes the likeliest token
  top_k: int = 0  # only the k likeliest tokens; 0 is all
  top_p: float = 1.0  # only the likeliest that together reach p; 1 is all
  min_p: float = 0.0  # only those at least so likely, of the likeliest
  # Dev tasks of each gym whose demonstrations tell, by their perplexity, what
  # training forgets; 0 leaves the check out.
  forgetting_tasks: int = 0


@dataclasses.dataclass
class Checkpoint:
  """What a killed run can come back to, and what is kept to be read."""

  every_steps: int = 5  # of any stage, whose end is always kept; 0 is off
  every_minutes: float = 0.0  # since the last one, after a step; 0 is off
  keep: int = 2  # latest checkpoints kept a stage
  transcripts_every: int = 5  # steps whose dialogues are kept; 1 keeps all


@dataclasses.dataclass
class Mesh:
  """Devices; -1 takes what is left."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  # Devices that a CPU is split into, each with a thread of its own. Programs of
  # a small model use two cores better as two devices than by threads within.
  cpu_devices: int = 1


@dataclasses.dataclass
class Config:
  """A whole run."""

  out_dir: str = "runs/default"
  seed: int = 0
  # A checkpoint folder to start from instead of model.folder, or random params.
  init_from: str = ""  # {seed} in it is the run's
  # And arms to compare with: continued_updates, continued (SFT goes on),
  # rl_only_updates and rl_only (GRPO from the base).
  stages: tuple[str, ...] = ("base", "cold_start", "grpo")
  model: Model = dataclasses.field(default_factory=Model)
  lora: Lora = dataclasses.field(default_factory=Lora)
  tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
  chat: Chat = dataclasses.field(default_factory=Chat)
  gyms: Gyms = dataclasses.field(default_factory=Gyms)
  user: User = dataclasses.field(default_factory=User)
  judge: Judge = dataclasses.field(default_factory=Judge)
  agent: Agent = dataclasses.field(default_factory=Agent)
  local: Local = dataclasses.field(default_factory=Local)
  recording: Recording = dataclasses.field(default_factory=Recording)
  budget: Budget = dataclasses.field(default_factory=Budget)
  rollout: Rollout = dataclasses.field(default_factory=Rollout)
  engine: Engine = dataclasses.field(default_factory=Engine)
  packing: Packing = dataclasses.field(default_factory=Packing)
  base: Base = dataclasses.field(default_factory=Base)
  cold_start: ColdStart = dataclasses.field(default_factory=ColdStart)
  grpo: Grpo = dataclasses.field(default_factory=Grpo)
  comparison: Comparison = dataclasses.field(default_factory=Comparison)
  evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
  checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
  selection: config_selection.Selection = dataclasses.field(
    default_factory=config_selection.Selection
  )
  mesh: Mesh = dataclasses.field(default_factory=Mesh)
  hosts: config_hosts.Hosts = dataclasses.field(
    default_factory=config_hosts.Hosts
  )
