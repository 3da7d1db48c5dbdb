"""What cannot be computed: memory that CUDA, its libraries and the engines take for themselves, in bytes.

Every number here is a measurement or stands in for one; the comment says which. All formulas are in the files beside
this one.
"""

from __future__ import annotations

from roadwork_deploy.planner.hardware import GB, GIB

# CUDA context, cuBLAS, FlashAttention and compiled kernels of one vLLM worker. First estimate, not measured.
VLLM_CONTEXT = int(1.0 * GIB)
# Graphs of the 51 batch sizes up to 512, Qwen3-VL-4B. First estimate, not measured.
CUDA_GRAPHS = int(0.6 * GIB)
# Sizes that the graphs above were for (vLLM's default list up to 512); fewer sizes take less, but never nothing.
GRAPH_SIZES = 51
GRAPH_LEAST = int(0.15 * GIB)
# Buffers of NCCL and of vLLM's own all-reduce, a GPU of a tensor-parallel group. First estimate, not measured.
NCCL_BUFFERS = int(0.6 * GIB)
# What PyTorch's allocator holds beyond what is in use: segments of 2 and 20 MiB that are not full. First estimate;
# on an H200 vLLM 0.25.1 reported 8.6 GiB for the 8.27 GiB of weights of Qwen3-VL-4B and 0.18 GiB of buffers.
ALLOCATOR_SLACK = 0.02
# CUDA context, cuDNN and cuBLAS of one ONNX Runtime process. Measured on an H200 (onnxruntime-gpu 1.31.1, CUDA 13):
# what eleven networks held less their arenas' steps was 665 to 671 MiB.
ORT_CONTEXT = 668 << 20
# Workspace of cuDNN's convolutions, whose size ONNX Runtime does not limit. First estimate; with it each of the eleven
# networks falls on the step of the arena that it was measured at.
CUDNN_WORKSPACE = int(0.25 * GIB)
# ONNX Runtime's arena takes regions of 1, 2, 4 ... MiB and at last of 1 GiB each (bfc_arena: kNextPowerOfTwo up to
# max_power_of_two_extend_bytes): so it holds the sum of the first regions that suffice. Measured: 1, 2, 3 and 5 GiB.
ARENA_LARGEST_REGION = 1 << 30
# What lies between chunks and cannot be used. First estimate.
ARENA_SLACK = 1.1
# Bytes of a canvas on its way into a network: uint8, and twice as float32 while it is put in order and resized.
CANVAS = 640 * 640 * 3 * (1 + 4 + 4)
# Live activations of convolutional detectors, in float32 bytes a pixel of the network's input: this times the root of
# the parameters in millions. From the widths of YOLO11 (n 16 to x 96 channels at half the side, three tensors at once).
CONV_BYTES = 36.0
# tritonserver's own CUDA context and memory pool on every GPU: 582 MiB on an H200, by nvidia-smi (Triton 2.51).
SERVER_CONTEXT = 582 << 20
# Left free on every GPU: the larger of this share and this many bytes.
HEADROOM_SHARE = 0.03
HEADROOM_LEAST = 1 * GB
# The same of Grounding DINO (Swin, and 13,000 tokens of four scales in its encoder at 800 pixels), bytes a pixel.
# Grounding DINO tiny and base in float16 with sessions for one and two images held 1 and 2 GiB of arenas on an H200: at
# most 1,600 by base's second, 1,100 by tiny's first. An earlier session that met one to four images in turn held 5 GiB.
GROUNDING_BYTES = 1500.0
# What suppression inside the graph adds to an image, where real boxes reach it. First estimate: on an H200 yolo11x,
# which has it, grew by a region under load, and yolo26x, which does without, did not.
SUPPRESSION = 12_000_000
