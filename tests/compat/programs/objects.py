import ray

# Objects: snapshots, arrays, refs in containers.
import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)

matrix = np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000)
ref = ray.put(matrix)
matrix[0, 0] = -1
back = ray.get(ref)
print(back[0, 0], back.flags.writeable, back.dtype, back.shape, np.shares_memory(back, ray.get(ref)))
try:
    back[0, 0] = 5
except ValueError as error:
    print(type(error).__name__, error)


@ray.remote
def row_sums(m, rows):
    return m[rows].sum(axis=1)


parts = [row_sums.remote(ref, slice(i, i + 250)) for i in range(0, 1000, 250)]
print(np.concatenate(ray.get(parts)).sum() == back.sum())


@ray.remote
def unwrap(container):
    return type(container["refs"][0]).__name__, [int(x.sum()) for x in ray.get(container["refs"])]


print(ray.get(unwrap.remote({"refs": [ray.put(np.ones(10)), ray.put(np.ones(300_000))]})))
for value in (None, 1, "x", b"y", (1, [2, {3}]), {"k": (None,)}, range(3), 2**70, 1j, bytearray(b"z")):
    result = ray.get(ray.put(value))
    print(type(result).__name__, result)
nested = ray.put([ray.put([ray.put("inner")])])
print(ray.get(ray.get(ray.get(nested)[0])[0]))
print(len(ref.binary()), len(ref.hex()), ref == ray.ObjectRef(ref.binary()), ref in {ref})


@ray.remote
def make(n):
    return [ray.put(i) for i in range(n)]


print(sum(ray.get(ray.get(make.remote(200)))))
