//! `fidelio audit` beside workers on a cluster.

use crate::audit::{PIPELINE, audited_while_rows_flow};
use crate::support::broker;

#[test]
fn a_running_pipeline_is_audited_while_rows_flow() {
    let namespace = format!("namespace = \"audit-{}\"", std::process::id());
    let bus = format!("[bus]\nkind = \"kafka\"\nbrokers = \"{}\"\n[stages.orders]", broker());
    let pipeline = PIPELINE.replace("namespace = \"audit\"", &namespace).replacen("[stages.orders]", &bus, 1);
    audited_while_rows_flow(&pipeline);
}
