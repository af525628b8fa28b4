import ray

# Conway's game of life on a torus: an actor holds a band of rows, and neighbours give each other their edges.
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
WIDTH, BANDS, ROWS = 8, 4, 2


@ray.remote(num_cpus=0)
class Band:
    def __init__(self, rows):
        self.rows = rows

    def edges(self):
        return self.rows[0], self.rows[-1]

    def step(self, above, below):
        framed = [above[1], *self.rows, below[0]]
        self.rows = ["".join(self.cell(framed, y, x) for x in range(WIDTH)) for y in range(1, len(framed) - 1)]

    def cell(self, rows, y, x):
        alive = sum(
            rows[y + dy][(x + dx) % WIDTH] == "#" for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
        )
        return "#" if alive == 3 or (alive == 2 and rows[y][x] == "#") else "."

    def show(self):
        return self.rows


board = [
    ".#......",
    "..#.....",
    "###.....",
    "........",
    "........",
    ".....###",
    "........",
    "........",
]
bands = [Band.remote(board[i * ROWS : (i + 1) * ROWS]) for i in range(BANDS)]
for _ in range(8):
    edges = [band.edges.remote() for band in bands]
    ray.get([band.step.remote(edges[i - 1], edges[(i + 1) % BANDS]) for i, band in enumerate(bands)])
print("\n".join(row for rows in ray.get([band.show.remote() for band in bands]) for row in rows))
