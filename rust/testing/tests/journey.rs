//! One task from its call to its value, hop by hop, as docs/journey-of-a-task.md tells it.

use std::time::Duration;

use ray_rs_testing::sim::{self, Function, Mutation, Op, Options, Program};

fn function(ops: Vec<Op>) -> Function {
    Function {
        ops,
        returns: Vec::new(),
        max_retries: 3,
        half_cpus: 2,
    }
}

#[test]
fn one_task_takes_this_way() {
    let call = Op::Call {
        function: 1,
        deps: Vec::new(),
        nested: Vec::new(),
    };
    let program = Program {
        functions: vec![function(vec![call, Op::Get(0)]), function(vec![Op::Work(100)])],
    };
    let options = Options {
        seed: 1,
        cpus: 1,
        crashes: 0,
        failing_starts: 0,
        mutation: Mutation::None,
        time_limit: Duration::from_secs(10),
    };
    let report = sim::run_program(program, options);
    let hops: Vec<&str> = report.trace.lines().filter_map(hop).collect();
    assert_eq!(
        hops,
        [
            // 5, 6: the raylet grants a lease, to a driver's first task before it is there.
            "RequestLease",
            "LeaseGranted",
            // The raylet hears that what it gave ahead is in use; by another way than the task goes, and here it is quicker.
            "LeaseBegun",
            // 8: over the lane to the worker, which claims and runs it; 10, 11: the answer, and the owner learns.
            "PushTask",
            "TaskReply",
            // Nothing came after it: the lease goes back when it has lingered.
            "ReturnLease",
        ],
        "{}",
        report.trace
    );
    assert_eq!((report.tasks, report.crashes), (1, 0));
}

/// The message of a line of the trace, if it is about the task.
fn hop(line: &str) -> Option<&str> {
    let message = line.split_once("msg: ")?.1;
    let name = message.split([' ', '}']).next()?;
    // Spare workers come and go beside it.
    (!["Exit", "Closed", "DeathReport"].contains(&name)).then_some(name)
}
