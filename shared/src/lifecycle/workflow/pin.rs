//! What a run is made of does not change under it.

use std::collections::HashMap;

use crate::ledger::{Ledger, LedgerError};
use crate::model::name::Namespace;
use crate::model::workflow::{ChildOf, StepSpec, Work};

/// Steps that start a stored definition of no certain version get the one that is the latest now. One that is not
/// there yet is looked for when its step is released.
pub(super) async fn pin(
    ledger: &Ledger,
    namespace: &Namespace,
    steps: &mut [StepSpec],
) -> Result<(), LedgerError> {
    let mut latest: HashMap<String, Option<u32>> = HashMap::new();
    let mut open: Vec<&mut [StepSpec]> = vec![steps];
    while let Some(steps) = open.pop() {
        for step in steps {
            let Work::Child(child) = &mut step.work else { continue };
            match &mut child.of {
                ChildOf::Inline(spec) => open.push(&mut spec.steps),
                ChildOf::Definition { version: Some(_), .. } => {}
                ChildOf::Definition { name, version } => {
                    if !latest.contains_key(name) {
                        let found = ledger.definition(namespace, name, None).await?;
                        latest.insert(name.clone(), found.map(|found| found.version));
                    }
                    *version = latest[name];
                }
            }
        }
    }
    Ok(())
}
