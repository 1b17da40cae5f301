"""What an operator may add to an engine's command line and environment: names that are known to tune, and no others.

A name that is not here is refused: engines have hundreds, new ones with every release, and many load weights, code,
templates or files, or say where to listen. Sources: vLLM's `EngineArgs` and `FrontendArgs`, SGLang's `ServerArgs`,
vLLM-Ascend's `additional_config`, the environment variables of HCCL, NCCL, CANN and PyTorch, and the recipes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

WORD: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # no dots and slashes: neither a path nor a name in Python
NUMBER: Final = r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?([kKmMgGtT]i?)?"
WRITTEN: Final = "/daulat/files"  # where a sandbox shows what Daulat wrote for an engine to read
_PLAIN: Final = rf"{NUMBER}|{WORD}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One engine's. `switches` take no value; `values` one, which its pattern matches whole; `many` one or more plain
    ones; `objects` a JSON object of these keys at any depth. `variables` are patterns of whole names.
    """

    switches: frozenset[str] = frozenset()
    values: Mapping[str, str] = field(default_factory=dict)
    many: frozenset[str] = frozenset()
    objects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)  # variables that name a file of Daulat's own, and which


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _flags(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())


_COMMON: Final = (
    r"(OMP|KMP|GOMP)_[A-Z_]+",
    r"(MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|MALLOC_ARENA_MAX|TOKENIZERS_PARALLELISM|PYTHONHASHSEED",
    r"PYTORCH_(CUDA_|NPU_|HIP_)?ALLOC_CONF",
    r"(CUDA|HIP|ROCR|ASCEND_RT)_VISIBLE_DEVICES|CUDA_DEVICE_(ORDER|MAX_CONNECTIONS)|CUDA_MODULE_LOADING",
)
_COLLECTIVE: Final = (r"(HCCL|NCCL|TORCH_NCCL)_[A-Z0-9_]+", r"(GLOO|TP)_SOCKET_IFNAME", r"SAFETENSORS_FAST_GPU")
_ASCEND: Final = (
    r"(ASCEND|ACL|ATB)_[A-Z0-9_]+",
    r"TASK_QUEUE_ENABLE|STREAMS_PER_DEVICE|CPU_AFFINITY_CONF|INF_NAN_MODE_ENABLE|DYNAMIC_EPLB|NPU_MEMORY_FRACTION",
)
_COMPILING: Final = r"TORCH_COMPILE_DISABLE|TORCHDYNAMO_DISABLE|TORCHINDUCTOR_COMPILE_THREADS"

LOADING: Final = _words(
    "PATH PATHS FILE FILES DIR FOLDER LIB LIBS LIBRARY LIBRARIES TOOL ROOT HOME PLUGIN PLUGINS PRELOAD MODULE "
    "MODULES PACKAGE CLASS CLS HOOK HOOKS "
    "CUSTOM EXTERNAL REMOTE CODE INSECURE SERIALIZATION MODELSCOPE LORA TOKENIZER TEMPLATE PROCESSOR "
    "PROCESSORS URL URI KEY TOKEN SECRET PASSWORD CONFIG DUMP SAVE"
)
"""Words of a variable's name that make it one which may load code or weights, hold a secret or write a prompt down."""

VENDORS: Final = _words(
    "LD_LIBRARY_PATH ASCEND_HOME_PATH ASCEND_TOOLKIT_HOME ASCEND_OPP_PATH ASCEND_AICPU_PATH ATB_HOME_PATH CUDA_HOME "
    "ROCM_PATH"
)
VENDORS_ROOTS: Final = (
    "/usr/local/Ascend/",
    "/usr/local/cuda/",
    "/usr/local/cuda-",
    "/opt/rocm/",
    "/usr/lib/",
    "/usr/lib64/",
)
"""Where the vendors' own libraries lie, which only root can change; a variable of `VENDORS` may name nothing else."""

_VLLM_VALUES: Final = """
tensor-parallel-size pipeline-parallel-size data-parallel-size data-parallel-size-local decode-context-parallel-size
prefill-context-parallel-size max-model-len max-num-seqs max-num-batched-tokens max-num-partial-prefills
max-long-partial-prefills long-prefill-token-threshold max-logprobs gpu-memory-utilization kv-cache-memory-bytes
kv-cache-dtype block-size swap-space cpu-offload-gb seed quantization moe-backend attention-backend all2all-backend
mamba-ssm-cache-dtype mamba-cache-dtype mamba-block-size num-gpu-blocks-override stream-interval
distributed-timeout-seconds cp-kv-cache-interleave-size dcp-kv-cache-interleave-size safetensors-load-strategy
reasoning-parser tool-call-parser api-server-count max-parallel-loading-workers mm-processor-cache-gb
mm-encoder-tp-mode prefix-caching-hash-algo max-cudagraph-capture-size max-seq-len-to-capture kv-offloading-size
expert-placement-strategy
"""
_DTYPES: Final = "auto|half|float16|bfloat16|float|float32"
_VLLM_SHORT: Final = ("-tp", "-pp", "-dp", "-dpl", "-dcp", "-pcp", "-q")

VLLM: Final = Allowed(
    switches=_flags(
        "enforce-eager enable-prefix-caching enable-chunked-prefill enable-expert-parallel enable-auto-tool-choice "
        "async-scheduling enable-eplb disable-custom-all-reduce disable-hybrid-kv-cache-manager disable-cascade-attn "
        "calculate-kv-scales enable-dbo data-parallel-hybrid-lb enable-prompt-tokens-details "
        "exclude-tools-when-tool-choice-none disable-chunked-mm-input kv-sharing-fast-prefill "
        "enable-flashinfer-autotune disable-uvicorn-access-log disable-fastapi-docs language-model-only"
    ),
    values={
        **dict.fromkeys([*_flags(_VLLM_VALUES), *_VLLM_SHORT], _PLAIN),
        "--dtype": _DTYPES,
        "--tokenizer-mode": "auto|hf|slow|fast|mistral|deepseek_v[0-9]+|kimi_[a-z0-9]+",
        "--chat-template-content-format": "auto|string|openai",
        "--scheduling-policy": "fcfs|priority",
        "--distributed-executor-backend": "mp|uni",
        "--load-format": "auto|safetensors|sharded_state|fastsafetensors",
    },
    objects={
        "--speculative-config": _words(
            "method num_speculative_tokens enforce_eager draft_tensor_parallel_size disable_by_batch_size "
            "prompt_lookup_max prompt_lookup_min disable_padded_drafter_batch max_model_len moe_backend "
            "attention_backend"
        ),
        "--compilation-config": _words(
            "mode level cudagraph_mode cudagraph_capture_sizes max_cudagraph_capture_size cudagraph_num_of_warmups "
            "use_inductor pass_config fuse_norm_quant fuse_act_quant fuse_attn_quant fuse_allreduce_rms "
            "fuse_gemm_comms enable_sp enable_noop enable_fusion enable_async_tp"
        ),
        "--kv-transfer-config": _words(
            "kv_connector kv_role kv_rank kv_parallel_size kv_port kv_buffer_device kv_buffer_size engine_id "
            "kv_load_failure_policy kv_connector_extra_config connectors backend lookup_rpc_port use_layerwise "
            "use_ascend_direct prefill decode dp_size tp_size"
        ),
        "--additional-config": _words(
            "ascend_compilation_config ascend_scheduler_config torchair_graph_config c8_enable_reshape_optim "
            "enable_balance_scheduling enable_cpu_binding enable_dsa_cp enable_fused_mc2 enable_npugraph_ex "
            "enable_shared_expert_dp enable_sparse_li_c8 enable_sparse_sfa_c8 enable_static_kernel "
            "finegrained_tp_config "
            "fuse_muls_add fuse_norm_quant fuse_qknorm_rope lmhead_tensor_parallel_size oproj_tensor_parallel_size "
            "embedding_tensor_parallel_size mlp_tensor_parallel_size multistream_overlap_shared_expert "
            "multistream_overlap_gate recompute_scheduler_enable eplb_config dynamic_eplb eplb_policy_type "
            "expert_heat_collection_interval algorithm_execution_interval num_redundant_experts enabled enable "
            "graph_batch_sizes use_cached_graph weight_prefetch_config prefetch_ratio attn mlp moe qkv o gate_up down"
        ),
        "--model-loader-extra-config": _words("enable_multithread_load num_threads concurrency"),
        "--eplb-config": _words("num_redundant_experts window_size step_interval use_async"),
        "--limit-mm-per-prompt": _words("image video audio"),
        "--hf-overrides": _words("use_index_cache index_topk_freq"),  # of sparse attention: how often, never which
    },
    variables=(
        *_COMMON,
        *_COLLECTIVE,
        *_ASCEND,
        _COMPILING,
        r"VLLM_(ASCEND|CPU|MLA|MOE|ROCM|FLASHINFER|FLASH_ATTN|DEEP_GEMM|DEEPEP|ALL2ALL)_[A-Z0-9_]+",
        r"VLLM_USE_(V1|V2_MODEL_RUNNER|NCCL_[A-Z_]+|(FLASHINFER|DEEP_GEMM|CUDNN|TRTLLM|TRITON|FUSED)[A-Z0-9_]*)",
        r"VLLM_(RPC|EXECUTE_MODEL|ENGINE_(READY|ITERATION)|(NIXL|MOONCAKE)_ABORT_REQUEST)_TIMEOUT[A-Z_]*",
        r"VLLM_(ATTENTION_BACKEND|KV_CACHE_LAYOUT|PREFIX_CACHE_RETENTION_INTERVAL|SKIP_P2P_CHECK)",
    ),
)

_SGLANG_VALUES: Final = """
tp tp-size tensor-parallel-size dp dp-size data-parallel-size ep ep-size expert-parallel-size pp pp-size
pipeline-parallel-size context-length max-running-requests max-total-tokens max-prefill-tokens chunked-prefill-size
mem-fraction-static schedule-policy schedule-conservativeness page-size quantization kv-cache-dtype device
attention-backend prefill-attention-backend decode-attention-backend sampling-backend grammar-backend
moe-a2a-backend moe-runner-backend fp8-gemm-backend deepep-mode moe-dense-tp-size ep-num-redundant-experts
cuda-graph-max-bs speculative-algorithm speculative-num-steps speculative-eagle-topk speculative-num-draft-tokens
speculative-attention-mode reasoning-parser tool-call-parser random-seed stream-interval num-continuous-decode-steps
watchdog-timeout dist-timeout nsa-prefill-backend nsa-decode-backend mamba-ssm-dtype max-mamba-cache-size
disaggregation-transfer-backend hicache-ratio hicache-size hicache-write-policy tokenizer-worker-num
"""

SGLANG: Final = Allowed(
    switches=_flags(
        "enable-metrics enable-cache-report enable-dp-attention enable-dp-lm-head disable-radix-cache "
        "disable-cuda-graph disable-cuda-graph-padding enable-mixed-chunk disable-overlap-schedule enable-eplb "
        "enable-two-batch-overlap enable-single-batch-overlap disable-custom-all-reduce enable-nccl-nvls "
        "enable-symm-mem enable-mscclpp enable-hierarchical-cache enable-deterministic-inference "
        "disable-chunked-prefix-cache disable-shared-experts-fusion enable-p2p-check enable-torch-compile"
    ),
    values={
        **dict.fromkeys(_flags(_SGLANG_VALUES), _PLAIN),
        "--dtype": _DTYPES,
        "--tokenizer-mode": "auto|slow",
        "--load-format": "auto|safetensors",
        "--disaggregation-mode": "null|prefill|decode",
    },
    many=_flags("cuda-graph-bs"),
    variables=(
        *_COMMON,
        *_COLLECTIVE,
        *_ASCEND,
        _COMPILING,
        r"SGLANG_(NPU|USE|ENABLE|DEEPEP|DSV4)_[A-Z0-9_]+",
        r"DEEP_NORMAL_MODE_USE_INT8_QUANT",
    ),
)

MINDIE: Final = Allowed(
    variables=(*_COMMON, *_COLLECTIVE, *_ASCEND, r"MINDIE_ASYNC_SCHEDULING_ENABLE|ATB_LLM_[A-Z_]+"),
    written={"MIES_CONFIG_JSON_PATH": f"{WRITTEN}/config.json"},
)
# llama.cpp: every parameter is Daulat's, and it is told no variable; those that would load code elsewhere are refused.
STARTED_BY_US: Final = Allowed(
    variables=(r"(?!LD_|PYTHON|VLLM_|SGLANG_|MIES_|BASH_|HF_|TRANSFORMERS_)[A-Z][A-Z0-9_]*",)
)

ALLOWED: Final[Mapping[str, Allowed]] = MappingProxyType(
    {
        "llama.cpp": STARTED_BY_US,
        "vllm": VLLM,
        "vllm-ascend": VLLM,
        "sglang": SGLANG,
        "mindie": MINDIE,
        "external": Allowed(),  # nothing is started
    }
)
