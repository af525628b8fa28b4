import ray

# Arrays: large arguments, views, what is shared and what is not.
import numpy as np

ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)


@ray.remote
def describe(array):
    return str(array.dtype), array.shape, array.flags.writeable, array.flags.c_contiguous, array.flags.f_contiguous


big = np.arange(500_000, dtype=np.float32).reshape(500, 1000)
small = np.arange(6).reshape(2, 3)
for array in (big, small, big.T, big[::2, ::3], np.asfortranarray(big), np.zeros(()), np.zeros((0, 5))):
    print(ray.get(describe.remote(array)), ray.get(describe.remote(ray.put(array))))
for dtype in ("bool", "int8", "uint64", "float16", "complex128", "datetime64[s]", "U3", "S2"):
    array = np.zeros(1000, dtype=dtype)
    back = ray.get(ray.put(array))
    print(dtype, back.dtype, np.array_equal(back, array), back.flags.writeable)
record = np.array([(1, 2.5, "a"), (3, 4.5, "bc")], dtype=[("x", "i4"), ("y", "f8"), ("name", "U5")])
print(ray.get(ray.put(record)))
objects = np.array([{"a": 1}, [2], None], dtype=object)
print(ray.get(ray.put(objects)), type(ray.get(ray.put(np.float32(1.5)))).__name__)
masked = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
print(ray.get(ray.put(masked)).sum(), type(ray.get(ray.put(np.matrix([[1, 2]])))).__name__)


# A model's weights in a dict, sent to many tasks once.
weights = ray.put({"w": np.ones((300, 300)), "b": np.zeros(300), "name": "model"})


@ray.remote
def predict(weights, x):
    return float((weights["w"] @ x + weights["b"]).sum())


print(ray.get([predict.remote(weights, np.full(300, i)) for i in range(4)]))
fetched = ray.get(weights)
print(fetched["w"].flags.writeable, fetched["name"])
copied = fetched["w"].copy()
copied[0, 0] = 7
print(copied[0, 0], ray.get(weights)["w"][0, 0])


# Views live longer than the references and the tasks that they came from.
def view():
    ref = ray.put(np.arange(200_000))
    return ray.get(ref)[100_000:100_003]


kept = [view() for _ in range(20)]
print(kept[0].tolist(), all(np.array_equal(each, kept[0]) for each in kept))


@ray.remote
class Store:
    def __init__(self):
        self.arrays = {}

    def keep(self, name, array):
        self.arrays[name] = array
        return array.nbytes

    def update(self, name):
        array = self.arrays[name].copy()
        array *= 2
        self.arrays[name] = array

    def read(self, name):
        return self.arrays[name]

    def is_writable(self, name):
        try:
            self.arrays[name][0] = 1
        except ValueError as error:
            return str(error)
        return "writable"


store = Store.remote()
print(ray.get(store.keep.remote("a", np.arange(300_000))), ray.get(store.is_writable.remote("a")))
ray.get(store.update.remote("a"))
print(ray.get(store.read.remote("a"))[-1], ray.get(store.is_writable.remote("a")))


# Blocks of a matrix product.
@ray.remote
def product(a, b):
    return a @ b


@ray.remote
def total(*parts):
    return sum(parts[1:], parts[0].copy())


a, b = np.arange(40_000.0).reshape(200, 200), np.eye(200)[::-1].copy()
blocks = lambda m: [[ray.put(m[i : i + 100, j : j + 100]) for j in (0, 100)] for i in (0, 100)]
x, y = blocks(a), blocks(b)
rows = [[total.remote(*[product.remote(x[i][k], y[k][j]) for k in (0, 1)]) for j in (0, 1)] for i in (0, 1)]
print(np.array_equal(np.block([ray.get(row) for row in rows]), a @ b))


# A step of Conway's game of life, rows by rows.
@ray.remote
def step(above, rows, below):
    block = np.vstack([above[-1:], rows, below[:1]])
    alive = sum(np.roll(block, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j)
    return ((alive == 3) | ((block == 1) & (alive == 2))).astype(np.uint8)[1:-1]


board = np.zeros((30, 30), dtype=np.uint8)
board[1:4, 1:4] = [[0, 1, 0], [0, 0, 1], [1, 1, 1]]
parts = [ray.put(board[i : i + 10]) for i in (0, 10, 20)]
for _ in range(40):
    parts = [step.remote(parts[i - 1], parts[i], parts[(i + 1) % 3]) for i in range(3)]
print(np.argwhere(np.vstack(ray.get(parts))).tolist())
