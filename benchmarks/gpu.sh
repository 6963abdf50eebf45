#!/usr/bin/env bash
# All checks of lth on a GPU, in one go (docs/gpu.md). In an environment with `pip install -e '.[cuda12,brax,bench]'`:
#     bash benchmarks/gpu.sh FOLDER
# writes FOLDER/*.txt, *.json and the tables of a grid. On a CPU, small sizes try the script itself:
#     AGENTS='1 2' TICKETS=4 ENV_STEPS=400 TASK=brax:fast bash benchmarks/gpu.sh FOLDER
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$root/src XLA_PYTHON_CLIENT_PREALLOCATE=false
cd "$root"

python - <<'EOF' | tee "$out/device.txt"
import jax
print("jax", jax.__version__, jax.devices())
EOF
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >> "$out/device.txt" 2>&1 || true

# 1. `lth run` as it is: one run at a time, each in its own process.
cat > "$out/plain.yaml" <<EOF
tasks: [Pendulum-v1]
seeds: [0, 1]
output_dir: $out/plain
training: {env_steps: 1000, start_steps: 200, segment_steps: 500, backend: dense}
evaluation: {every: 500, episodes: 2, last_episodes: 4}
pruning: {methods: [magnitude, taylor], sparsity: [0.9], num_gradient_batches: 10}
EOF
(time python -m lth run "$out/plain.yaml") > "$out/plain.txt" 2>&1
# The same in batches. Returns agree with those above up to rounding, for as long as that stays small.
(time python -m lth run "$out/plain.yaml" executor=batched batch=4 training.backend=auto output_dir="$out/plain-batched") \
    > "$out/plain-batched.txt" 2>&1

# 2. Updates a second, in float32 and in TensorFloat-32.
for precision in float32 tensorfloat32; do
    python benchmarks/many.py --json --no-grid --agents ${AGENTS:-1 4 16 64 256} --precision $precision \
        > "$out/updates-$precision.json"
done

# 3. A grid of many tickets on environments that live on the GPU.
python benchmarks/many.py --json --agents 1 --repeats 1 --task "${TASK:-brax:halfcheetah}" --tickets "${TICKETS:-256}" \
    --env-steps "${ENV_STEPS:-25000}" > "$out/grid.json"
cat "$out"/*.json
