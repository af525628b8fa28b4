//! What a program gives when it is run by itself, each call at once and to its end.

use std::rc::Rc;

use super::program::{Op, Program};
use crate::rng::mixed;

struct Value {
    number: u64,
    holds: Vec<Rc<Value>>,
}

/// The driver's number, and all that its `get`s saw, in order.
pub(crate) fn result_of(program: &Program) -> Vec<u64> {
    let mut seen = Vec::new();
    let value = call(program, 0, &[], &[], &mut Some(&mut seen));
    seen.push(value.number);
    seen
}

fn call(
    program: &Program,
    function: usize,
    deps: &[Rc<Value>],
    nested: &[Rc<Value>],
    seen: &mut Option<&mut Vec<u64>>,
) -> Value {
    let body = &program.functions[function];
    let mut number = mixed(function as u64, 1);
    let mut vars: Vec<Option<Rc<Value>>> = Vec::new();
    for dep in deps {
        number = mixed(number, dep.number);
        vars.extend(dep.holds.iter().cloned().map(Some));
    }
    vars.extend(nested.iter().cloned().map(Some));
    let pick = |vars: &[Option<Rc<Value>>], which: &[usize]| -> Vec<Rc<Value>> {
        let some = which.iter().filter(|_| !vars.is_empty());
        some.filter_map(|which| vars[which % vars.len()].clone()).collect()
    };
    for op in &body.ops {
        match op {
            Op::Work(_) => {}
            Op::Call { function, deps, nested } => {
                let (deps, nested) = (pick(&vars, deps), pick(&vars, nested));
                vars.push(Some(Rc::new(call(program, *function, &deps, &nested, &mut None))));
            }
            Op::Put { holds } => {
                let holds = pick(&vars, holds);
                let number = mixed(number, 2);
                vars.push(Some(Rc::new(Value { number, holds })));
            }
            Op::Get(which) => {
                if let Some(got) = pick(&vars, &[*which]).pop() {
                    number = mixed(number, got.number);
                    if let Some(seen) = seen {
                        seen.push(got.number);
                    }
                    vars.extend(got.holds.iter().cloned().map(Some));
                }
            }
            Op::Drop(which) => {
                if !vars.is_empty() {
                    let at = which % vars.len();
                    vars[at] = None;
                }
            }
        }
    }
    let holds = pick(&vars, &body.returns);
    Value { number, holds }
}
