//! Small clusters, each from its number. `make scale` runs the large ones.

use ray_rs_scheduler::bottom_up::forward::Rules;
use ray_rs_testing::scale::{Figures, Options, run};

fn small(seed: u64) -> Options {
    Options {
        groups: 6,
        checks: true,
        ..Options::new(seed, 40, 1_500)
    }
}

#[test]
fn every_task_runs_once_and_everything_comes_back() {
    for seed in 0..3 {
        let figures = run(small(seed));
        assert_eq!((figures.grants, figures.abandoned, figures.failed), (1_500, 0, 0));
        assert_eq!(figures.group_waits.count(), 6);
        assert!(figures.counts.forwarded > 0, "seed {seed}: some nodes make too much");
    }
}

#[test]
fn nothing_is_lost_when_nodes_die_and_leave_and_replicas_and_heartbeats_are_lost() {
    let mut again = 0;
    for seed in 0..8 {
        let figures = run(Options {
            replicas: 3,
            deaths: 3,
            drains: 3,
            replica_crashes: 5,
            lost_beats_permille: 100,
            ..small(seed)
        });
        // What is neither abandoned nor failed has run, as the world has checked.
        again += figures.grants + figures.abandoned + figures.failed - figures.tasks;
    }
    assert!(again > 0, "no task of a dead node has begun again");
}

#[test]
fn a_cluster_follows_from_its_number() {
    let troubled = |seed| Options {
        deaths: 2,
        replica_crashes: 2,
        lost_beats_permille: 50,
        ..small(seed)
    };
    let of = |figures: Figures| {
        (
            figures.digest,
            figures.waits,
            figures.counts,
            figures.events,
            figures.ended,
        )
    };
    assert_eq!(of(run(troubled(5))), of(run(troubled(5))));
    assert_ne!(run(troubled(5)).digest, run(troubled(6)).digest);
}

#[test]
fn load_that_each_node_can_bear_never_reaches_the_global_scheduler() {
    let figures = run(Options {
        groups: 0,
        load_percent: 10,
        hot_percent: 0,
        choosy_permille: 0,
        plain: true,
        ..small(1)
    });
    assert_eq!((figures.counts.asked, figures.counts.forwarded), (0, 0));
    assert_eq!(figures.counts.granted_locally, 1_500);
    assert_eq!(figures.costs.proposals.calls, 0);
}

#[test]
fn what_one_node_makes_too_much_of_is_served_by_all() {
    let figures = run(Options {
        groups: 0,
        load_percent: 60,
        hot_percent: 100,
        choosy_permille: 0,
        plain: true,
        ..small(2)
    });
    assert!(figures.counts.granted_to_others > 1_200, "{:?}", figures.counts);
}

#[test]
fn queues_have_a_bound_and_whoever_is_turned_away_comes_again() {
    let figures = run(Options {
        load_percent: 300,
        rules: Rules {
            max_waiting: 10,
            ..Rules::default()
        },
        ..small(3)
    });
    assert!(figures.counts.turned_away > 0);
    assert_eq!(figures.grants, 1_500);
}

#[test]
fn tasks_go_to_their_arguments_where_that_pays() {
    let figures = run(Options {
        load_percent: 40,
        choosy_permille: 500,
        ..small(4)
    });
    assert!(
        figures.bytes_spared > 9 * figures.bytes_moved,
        "{} moved, {} spared",
        figures.bytes_moved,
        figures.bytes_spared
    );
}
