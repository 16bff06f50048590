"""The code that a checkpoint of a language model brings, for test_remote_language.py."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM


class TinyTextConfig(LlamaConfig):
    model_type = "tiny_remote_text"


class TinyText(LlamaForCausalLM):
    config_class = TinyTextConfig
