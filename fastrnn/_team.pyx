# cython: auto_pickle=False
"""Threads that do tasks at the same time.

Compiled, because between any two instructions of interpreted code a signal's handler may raise, KeyboardInterrupt above
all: with some of the tasks started and others not, those that meet would wait for ever. Compiled code can be interrupted
only where it waits for a lock, or where it runs interpreted code.
"""

cdef extern from "_meet.h" nogil:
    ctypedef struct meeting:
        pass
    bint meet(meeting*, long parts, long count)
    void meet_no_more(meeting*)
    bint meet_is_over(meeting*)
    int this_processor()
    void move_from(int processor)

from functools import partial
from threading import Lock, Thread


cdef class Worker:
    """A thread that does one task whenever it is given one."""

    cdef object task, error, go, done
    cdef int giver      # the processor of the thread that gave the task

    def __init__(self):
        self.go, self.done = Lock(), Lock()
        self.go.acquire()
        self.done.acquire()
        Thread(target=self.serve, name="fastrnn", daemon=True).start()

    def serve(self):
        while True:
            self.go.acquire()
            with nogil:
                move_from(self.giver)
            try:
                self.task()
            except BaseException as error:
                self.error = error
            self.task = None
            self.done.release()

    cdef start(self, task):
        self.task, self.giver = task, this_processor()
        self.go.release()

    cdef wait(self, list errors):
        """Until the task is done, come what may: it writes to arrays that the caller will use."""
        while True:
            try:
                self.done.acquire()
                break
            except BaseException as error:  # raised by a signal's handler
                errors.append(error)
        if self.error is not None:
            errors.append(self.error)
            self.error = None


cdef class Pool:
    """Threads that wait for work. One call at a time has them."""

    cdef object free
    cdef list workers

    def __init__(self):
        self.free, self.workers = Lock(), []


cdef class Team:
    """The caller's thread and at most `extra` of a pool's, for a ``with`` block: none of these where the pool is taken."""

    cdef Pool pool
    cdef list workers
    cdef Py_ssize_t extra
    cdef bint holds

    def __init__(self, Pool pool, Py_ssize_t extra):
        self.pool, self.workers, self.extra, self.holds = pool, [], extra, False

    def __enter__(self):
        self.holds = self.extra > 0 and self.pool.free.acquire(False)
        if self.holds:
            try:
                while len(self.pool.workers) < self.extra:
                    self.pool.workers.append(Worker())
            except RuntimeError:
                pass    # the system, or an interpreter that is shutting down, starts no more threads: fewer will do
            except BaseException:
                self.__exit__()
                raise
            self.workers = self.pool.workers[:self.extra]
        return self

    def __exit__(self, *error):
        if self.holds:
            self.holds = False
            self.pool.free.release()

    @property
    def size(self):
        return 1 + len(self.workers)

    def run(self, tasks):
        """Do at most `size` tasks at the same time; returns when all are done, and raises what any of them raised."""
        cdef Worker worker
        cdef list errors = [], busy = self.workers[:len(tasks) - 1]
        if not 0 < len(tasks) <= self.size:
            raise ValueError(f"tasks should be 1 to {self.size}, got: {len(tasks)}")
        for worker, task in zip(busy, tasks[1:]):
            worker.start(task)
        try:
            tasks[0]()
        except BaseException as error:
            errors.append(error)
        for worker in busy:
            worker.wait(errors)
        if errors:
            raise errors[0]

    def run_all(self, tasks):
        """Do any number of tasks, dealt out in turn."""
        self.run_waves([tasks])

    def run_waves(self, waves):
        """Do lists of tasks one list after the other, the tasks of each at the same time, dealt out in turn."""
        cdef Shares shares = Shares(list(waves), min(self.size, max(map(len, waves))))
        self.run([partial(shares.do, i) for i in range(shares.parts)])


cdef class Shares:
    """Waves of tasks, shared by `parts` threads that meet after each. They do not sleep there: it is for short waits."""

    cdef list waves
    cdef readonly long parts
    cdef meeting at

    def __init__(self, list waves, long parts):
        self.waves, self.parts = waves, parts

    def do(self, Py_ssize_t index):
        cdef long count = 0
        try:
            for wave in self.waves:
                for task in wave[index::self.parts]:
                    task()
                count += 1
                with nogil:
                    meet(&self.at, self.parts, count)
                if meet_is_over(&self.at):
                    break       # another could not go on
        except BaseException:
            meet_no_more(&self.at)
            raise
