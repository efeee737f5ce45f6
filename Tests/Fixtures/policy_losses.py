"""Prints the losses and gradients of TRL's trainers on the numbers of PolicyLossTests.swift.

Needs torch, transformers, datasets and trl (1.16 made the numbers there).
"""

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

NEW = torch.tensor([[-1.5, -0.25, -2.0], [-3.0, -0.5, 0.0]])
OLD = torch.tensor([[-1.25, -0.5, -2.0625], [-3.5, -0.25, 0.0]])
REFERENCE = torch.tensor([[-1.75, -0.125, -1.0], [-2.5, -1.5, 0.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
ADVANTAGES = torch.tensor([0.75, -1.25])


def trainer(kind, config, **settings):
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(8)}, unk_token="0")), eos_token="1", pad_token="1")
    arguments = config(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=2,
        num_generations=2, epsilon=0.2, max_completion_length=4, gradient_checkpointing=False, **settings)
    result = kind(
        model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments,
        processing_class=tokenizer, train_dataset=Dataset.from_list([{"prompt": "2 3"}] * 4))
    result.current_gradient_accumulation_steps = 1
    return result


def loss(name, made):
    new = NEW.clone().requires_grad_()
    made._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
    inputs = dict(
        prompt_ids=torch.tensor([[2, 3], [2, 3]]), prompt_mask=torch.ones(2, 2, dtype=torch.long),
        completion_ids=torch.tensor([[4, 5, 6], [4, 5, 1]]), completion_mask=MASK, advantages=ADVANTAGES,
        old_per_token_logps=OLD, old_logps=(OLD * MASK).sum(1), ref_per_token_logps=REFERENCE, num_items_in_batch=torch.tensor(5))
    value = made._compute_loss(made.model, inputs)
    value.backward()
    gradient = [new.grad[i, j].item() for i in range(2) for j in range(3) if MASK[i, j]]
    print(name, repr(value.item()), gradient)


loss("rloo", trainer(RLOOTrainer, RLOOConfig, beta=0.0))
for kind in ("grpo", "dr_grpo", "bnpo"):
    made = trainer(GRPOTrainer, GRPOConfig, beta=0.0, loss_type=kind, use_bias_correction_kl=False)
    made.beta = 0.3  # afterwards: no reference model is loaded, its log-probabilities are given
    loss(kind, made)
