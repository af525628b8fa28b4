//! What happens in the model: at random, and as it was found or thought out once.

use proptest::prelude::*;

use super::{PROCESSES, Step, World, index_of};

/// Up to `most` of them; deaths, and what is done about them, come so many times as often as in a quiet life.
fn steps(most: usize, unrest: u32) -> impl Strategy<Value = Vec<Step>> {
    let process = 0..PROCESSES;
    let any = 0..64_usize;
    let step = prop_oneof![
        4 => (process.clone(), prop::option::of(any.clone())).prop_map(|(p, dep)| Step::Submit(p, dep)),
        8 * unrest => (process.clone(), process.clone(), any.clone()).prop_map(|(p, q, which)| Step::Give(p, q, which)),
        3 => (process.clone(), any.clone()).prop_map(|(p, which)| Step::Drop(p, which)),
        3 => (process.clone(), any.clone()).prop_map(|(p, which)| Step::Finish(p, which)),
        12 => any.clone().prop_map(Step::Deliver),
        unrest => process.clone().prop_map(Step::Kill),
        4 * unrest => any.clone().prop_map(Step::Learn),
        4 * unrest => any.clone().prop_map(Step::Answer),
        2 => (process, any).prop_map(|(p, which)| Step::Watch(p, which)),
    ];
    prop::collection::vec(step, 1..most)
}

/// How many schedules are tried: 2,000, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|number| number.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn what_somebody_holds_is_had_and_what_nobody_holds_goes(steps in steps(120, 1)) {
        replay(&steps);
    }

    #[test]
    fn the_same_where_many_die(steps in steps(250, 3)) {
        replay(&steps);
    }
}

fn replay(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    world.check_the_end();
}

/// Process 2 makes an object, gives it to 1 and 0, and dies; 0 is chosen, and lets go; 1 passes it on to 3 as 0's, and what 3
/// says to 0 is there before what 1 says.
fn let_go_and_named_again(is_large: bool) -> World {
    let mut world = World::new();
    world.step(&Step::Submit(2, None));
    if is_large {
        // Every second one is, and is given with its value.
        world.step(&Step::Drop(2, 0));
        world.step(&Step::Submit(2, None));
        world.finish(2, 1);
    }
    for to in [0, 1] {
        world.step(&Step::Give(2, to, 0));
        world.deliver((2, to));
    }
    world.step(&Step::Kill(2));
    for p in [0, 1] {
        world.learn(p, 2);
        world.answer(p);
        if p == 0 {
            if !is_large {
                world.finish(0, 0);
            }
            world.step(&Step::Drop(0, 0));
            assert_eq!(world.processes[0].table.reference_count(), 0);
        }
    }
    world.step(&Step::Give(1, 3, 0));
    world.deliver((1, 3));
    world
}

#[test]
fn an_adopter_is_asked_for_what_it_has_not_heard_of() {
    let mut world = let_go_and_named_again(false);
    world.step(&Step::Watch(3, 0));
    world.deliver_all((3, 0));
    assert_eq!(world.processes[0].table.reference_count(), 1, "ADO-5");
    world.check_the_end();
}

#[test]
fn an_adopter_is_given_back_what_it_has_not_heard_of() {
    let mut world = let_go_and_named_again(true);
    world.step(&Step::Drop(3, 0));
    world.deliver_all((3, 0));
    assert_eq!(world.processes[0].table.reference_count(), 1, "ADO-5");
    world.check_the_end();
}

#[test]
fn an_adopter_is_given_what_it_has_not_heard_of() {
    let mut world = let_go_and_named_again(true);
    world.step(&Step::Give(3, 0, 0));
    world.deliver_all((3, 0));
    assert_eq!(world.processes[0].handles.len(), 1);
    world.step(&Step::Watch(0, 0));
    world.check_the_end();
}

#[test]
fn an_older_message_declares_no_living_owner_dead() {
    let mut world = World::new();
    world.step(&Step::Submit(2, None));
    for to in [0, 1] {
        world.step(&Step::Give(2, to, 0));
        world.deliver((2, to));
    }
    world.step(&Step::Give(1, 3, 0));
    world.step(&Step::Kill(2));
    world.learn(0, 2);
    world.answer(0);
    world.step(&Step::Give(0, 3, 0));
    world.deliver((0, 3));
    world.deliver((1, 3));
    assert!(world.processes[3].dead.is_empty(), "process 3 knows of no death");
    assert_eq!(world.processes[3].questions.len(), 1, "who of the two it is");
    world.answer(3);
    let process = &world.processes[3];
    assert_eq!(
        process
            .table
            .owner(process.handles.values().copied().next().expect("it has one")),
        index_of(3, 0)
    );
    world.check_the_end();
}

#[test]
fn who_of_two_owns_what_nobody_needs_any_more() {
    use Step::{Answer, Deliver, Drop, Give, Kill, Learn, Submit};
    replay(&[
        Submit(2, None),
        Give(2, 0, 0),
        Kill(2),
        Deliver(0),
        Give(0, 3, 0),
        Learn(1),
        Learn(19),
        Deliver(0),
        Answer(0),
        Give(3, 0, 0),
        Deliver(0),
        Drop(0, 0),
    ]);
}

#[test]
fn an_orphan_that_came_with_a_spec_that_was_there() {
    use Step::{Answer, Deliver, Finish, Give, Kill, Learn, Submit};
    replay(&[
        Submit(3, None),
        Submit(3, Some(0)),
        Finish(3, 0),
        Give(3, 1, 61),
        Deliver(0),
        Give(1, 0, 0),
        Kill(3),
        Learn(10),
        Deliver(0),
        Answer(0),
        Learn(48),
        Give(1, 2, 0),
        Deliver(0),
        Answer(0),
        Finish(1, 0),
        Give(2, 0, 0),
        Deliver(39),
        Deliver(9),
        Deliver(45),
    ]);
}

#[test]
fn who_asks_before_its_grant_is_known_is_told_what_is_made_for_nobody_else() {
    let mut world = World::new();
    world.step(&Step::Submit(1, None));
    world.step(&Step::Give(1, 2, 0));
    world.deliver((1, 2));
    world.step(&Step::Kill(1));
    world.learn(2, 1);
    world.step(&Step::Give(2, 0, 0));
    world.learn(0, 1);
    world.answer(2);
    // It makes it again, for itself, and has no use for it before it is there.
    world.step(&Step::Drop(2, 0));
    world.deliver((2, 0));
    world.answer(0);
    world.step(&Step::Give(0, 3, 0));
    world.deliver((0, 3));
    world.deliver((3, 2));
    world.finish(2, 0);
    assert_eq!(world.processes[2].table.reference_count(), 0, "the grants come later");
    world.check_the_end();
}
