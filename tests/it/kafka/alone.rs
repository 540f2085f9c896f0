//! Each stage in a process of its own, as on a machine of its own.

use super::{assert_same, observe, scratch, written_bytes};
use crate::support::{Running, broker, long, until};

#[test]
fn stages_that_run_alone_do_together_what_one_worker_does_and_end_when_all_is_done() {
    let rows = if long() { 2_000_000 } else { 200_000 };
    let undisturbed = scratch("alone", None, rows);
    let expected = undisturbed.run();
    let scratch = scratch("alone", Some(&broker()), rows);
    let observer = observe(&scratch, &broker());
    let start = |stage: &str| Running::start(&mut scratch.command(&["run", "p.toml", "--json", "--stage", stage]));
    // All at once, so that some come before those that feed them.
    let mut workers = ["out", "tripled", "priced", "orders"].map(|stage| (stage, start(stage)));
    let mut seen = 0;
    let victims: &[usize] = if long() { &[2, 0, 1, 2, 0, 1] } else { &[2, 0] };
    for victim in victims {
        until("something more is written", || written_bytes(&scratch) > seen || !workers[0].1.is_running());
        seen = written_bytes(&scratch);
        let (stage, worker) = &mut workers[*victim];
        worker.kill();
        *worker = start(stage);
    }
    for (_, worker) in workers.iter_mut() {
        worker.ended_well();
    }
    assert_same(&scratch, observer, &undisturbed, &expected);
}
