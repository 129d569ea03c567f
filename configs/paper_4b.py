"""UserRL's own run: Qwen3-4B, five gyms, GRPO with equalized credit, r2g score.

Settings are the paper's (arXiv 2509.19736, tables 1 and 6) and its code's where
the paper is silent. Demonstrations are made first: the paper's are not public.

Command:   bash launch/paper.sh 4b MODEL TASKS TAU_BENCH \
             --config.user.base_url=http://HOST:8000/v1
           MODEL is the folder of Qwen3-4B, TASKS has UserRL's task files, the
           address serves Qwen3-32B (user.model); OPENAI_API_KEY is for the
           GPT-4o that demonstrates and is the user of the evaluation
Hardware:  TPU v5p-16 (8 chips of 95 GB), or v5e-16 as paper_4b.py:v5e; not run
Time:      not run here; the paper took 1.5 days on 8 H200, about 4 million
           requests to the user
Expect:    the paper's, from one run, not run here: Travel 0.509, Turtle 0.184,
           Function 0.333, Tau 0.200, Persuade 0.464; held out Intention 1.808
           (a sum), Telepathy 0.610, Search 0.864; 0.527 on average by its
           weights, where the untrained model has 0.293
"""

from userrl_jax import config as config_lib


def get_config(chip: str = "v5p") -> config_lib.Config:
  """Returns the cold start and GRPO of the paper, sized for a slice of 16."""
  c = config_lib.Config(out_dir="runs/paper_4b", stages=("cold_start", "grpo"))
  c.model.preset = "qwen3_4b"
  c.model.dtype, c.model.remat = "bfloat16", "full"
  c.tokenizer.kind = "huggingface"  # folders are given on the command line
  c.chat.profile = "full"
  c.gyms.names = ("travel", "turtle", "function", "tau", "persuade")
  c.gyms.levels = (1, 2, 3)
  c.gyms.num_train_tasks = 925  # at most, of each: all
  c.gyms.num_test_tasks = c.evaluation.num_tasks = 471
  c.gyms.max_turns = 16
  c.gyms.reward_profile = "paper"
  c.gyms.search.source = "web"  # asks for a key in SERPER_API_KEY
  c.user.kind, c.user.model = "endpoint", "Qwen/Qwen3-32B"
  c.user.api_key_env = ""  # OpenAI's is for nobody else
  c.user.timeout_s, c.user.max_outage_s = 60.0, 1800.0
  c.rollout.step_timeout_s = 300.0
  c.rollout.max_tokens_per_turn = 2048  # of UserRL's evaluation
  c.rollout.max_tokens_per_episode = 9344  # 1152 of the prompt, 8192 after it
  n, parts, tensor = {"v5p": (24, 8, 1), "v5e": (12, 4, 4)}[chip]
  c.engine = config_lib.Engine(num_rows=n, num_lanes=n, extend_tokens=1024)
  c.packing = config_lib.Packing(9728, parts, logprob_chunk=512)  # 19 * 512
  c.mesh = config_lib.Mesh(data=1, fsdp=-1, tensor=tensor)
  c.cold_start.source = "runs/paper_4b_shown/demonstrations/dialogues.jsonl"
  c.cold_start.num_epochs = 3
  c.cold_start.optimizer = config_lib.Optimizer(
    learning_rate=1e-5, schedule="cosine", warmup_steps=5
  )
  c.grpo.num_iterations = 270  # 15 epochs of the 2426 tasks of its code
  c.grpo.tasks_per_iteration, c.grpo.num_mini_batches = 128, 8
  c.grpo.optimizer = config_lib.Optimizer(
    learning_rate=1e-6, weight_decay=0.01, decay_all=True
  )
  c.evaluation.held_out_gyms = ("intention", "telepathy", "search")
  c.evaluation.temperature, c.evaluation.forgetting_tasks = 0.0, 20
  return c
