//! Some hundred worlds, each from its number; and that a world follows from its number alone.

use ray_rs_testing::sim::{self, Mutation};

/// Numbers of worlds that once went wrong.
const ONCE_BAD: [u64; 3] = [1063, 13_813, 222_709];

#[test]
fn worlds_keep_their_promises() {
    let mut crashes = 0;
    let mut tasks = 0;
    for seed in ONCE_BAD.into_iter().chain(0..600) {
        let report = sim::run(seed, Mutation::None);
        crashes += report.crashes;
        tasks += report.tasks;
    }
    assert!(
        crashes > 100 && tasks > 1000,
        "{crashes} crashes and {tasks} tasks are few"
    );
}

#[test]
fn the_same_number_gives_the_same_world_byte_for_byte() {
    for seed in [1, 7, 42, 1234] {
        let (one, other) = (sim::run(seed, Mutation::None), sim::run(seed, Mutation::None));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert!(!one.trace.is_empty());
    }
}
