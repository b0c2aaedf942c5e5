"""A real server of a model: llama.cpp in a process of its own, on loopback, with log-probabilities.

As a script it serves a GGUF file until its standard input ends, and prints its address first:

    python tests/advisor/served.py FILE [--alias NAME] [--port N] [--key KEY] [--rope-base X]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from src.advisor.models import LoadedModel

ROOT = Path(__file__).resolve().parents[2]


class ServedModel:
    """The process, started on entering; `kill` is SIGKILL. `options` as in the module's docstring."""

    def __init__(self, gguf: Path, *options: str) -> None:
        self._command = [sys.executable, str(Path(__file__)), str(gguf), *options]
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.url
        return self

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


def write_tiny(path: Path) -> Path:
    """The `tiny` model as a GGUF file in float32: the same weights and tokens, no chat template."""
    from src.advisor.models import load_model

    return write_gguf(load_model("tiny"), path)


def write_gguf(loaded: LoadedModel, path: Path) -> Path:
    """A Llama over bytes as a GGUF file in float32, with its chat template where it has one."""
    import gguf

    config, state = loaded.model.config, loaded.model.state_dict()
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(loaded.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(vocabulary))
    writer.add_token_merges(["~ ~"])  # the format wants one; no prompt has these characters
    writer.add_add_bos_token(False)
    if loaded.tokenizer.chat_template:
        writer.add_chat_template(loaded.tokenizer.chat_template)

    def turned(weights: np.ndarray, n: int) -> np.ndarray:
        """Rows in the order in which llama.cpp rotates them."""
        return weights.reshape(n, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)

    names = {
        "self_attn.q_proj": ("attn_q", heads), "self_attn.k_proj": ("attn_k", key_heads),
        "self_attn.v_proj": ("attn_v", 0), "self_attn.o_proj": ("attn_output", 0),
        "mlp.gate_proj": ("ffn_gate", 0), "mlp.up_proj": ("ffn_up", 0), "mlp.down_proj": ("ffn_down", 0),
        "input_layernorm": ("attn_norm", 0), "post_attention_layernorm": ("ffn_norm", 0),
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        for ours, (theirs, n) in names.items():
            weights = state[f"model.layers.{layer}.{ours}.weight"].numpy()
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", turned(weights, n) if n else weights)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    writer.add_tensor("output.weight", state["lm_head.weight"].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--alias", default="served")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--rope-base", type=float)
    parser.add_argument("--exact", action="store_true", help="keys and values in float32")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048, help="tokens a slot")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.file
    params.model_alias = {args.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.slots * args.context
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    if args.exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if args.key:
        params.api_keys = [args.key]
    if args.rope_base:
        params.rope_freq_base = args.rope_base
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    while sys.stdin.read(1):
        time.sleep(0.1)
    os._exit(0)


if __name__ == "__main__":
    main()
