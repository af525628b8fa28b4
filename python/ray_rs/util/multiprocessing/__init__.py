"""`multiprocessing.Pool` whose processes are actors: change the import, keep the program."""

from multiprocessing import JoinableQueue, TimeoutError

from ray_rs.util.multiprocessing.pool import AsyncResult, IMapIterator, Pool

__all__ = ["AsyncResult", "IMapIterator", "JoinableQueue", "Pool", "TimeoutError"]
