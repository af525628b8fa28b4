//! Worlds in which something is broken on purpose: some of the first few hundred must notice each.

use std::panic::catch_unwind;

use ray_rs_testing::sim::{self, Mutation};

fn is_caught(mutation: Mutation) -> bool {
    (0..400).any(|seed| catch_unwind(|| sim::run(seed, mutation)).is_err())
}

#[test]
fn each_broken_thing_is_noticed() {
    // They are to panic; nobody needs to read it.
    std::panic::set_hook(Box::new(|_| {}));
    let broken = [
        Mutation::ReturnedBorrowsAreLost,
        Mutation::GrantsAreLost,
        Mutation::RepliesReportNothing,
        Mutation::ReturnedLeasesAreLost,
        Mutation::SleepersLendNothing,
        Mutation::WithdrawalsAlwaysSucceed,
        Mutation::WithdrawnTasksRun,
        Mutation::ClaimedTasksRunAgainForFree,
    ];
    let unseen: Vec<Mutation> = broken.into_iter().filter(|mutation| !is_caught(*mutation)).collect();
    let _ = std::panic::take_hook();
    assert_eq!(unseen, []);
}
