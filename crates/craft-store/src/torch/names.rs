//! Tensors by name: dicts and lists joined by dots, pickled modules by the names of their state dict.
//!
//! A module of PyTorch is known by its attributes `_parameters`, `_buffers` and `_modules`, whatever its
//! class. Source: `torch/nn/modules/module.py`, `state_dict`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::pickle::{Id, Object, Pickle, Result, Value};
use super::view::View;

/// Most tensors of a file.
const MAX_TENSORS: usize = 100_000;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// Deepest nesting of dicts, lists and modules.
const MAX_DEPTH: usize = 64;
/// Most values visited while names are made.
const MAX_VISITS: usize = 4_000_000;
/// Entries that stand for the whole file.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// A module's members.
struct Members<'a> {
    parameters: &'a [(Id, Id)],
    buffers: &'a [(Id, Id)],
    modules: &'a [(Id, Id)],
    /// Names of buffers that a state dict leaves out.
    passing: &'a [Id],
}

impl Pickle {
    /// The items of a dict or of an object of a kind of dict.
    fn items(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Some(items),
            Value::Object(object) if !object.items.is_empty() => Some(&object.items),
            _ => None,
        }
    }

    /// The value of a key that is a text.
    fn value(&self, items: &[(Id, Id)], key: &str) -> Option<Id> {
        let is = |id: Id| matches!(self.get(id), Value::Text(text) if **text == *key);
        items.iter().find_map(|(name, value)| is(*name).then_some(*value))
    }

    /// The members of an object, if it is a module.
    fn members(&self, object: &Object) -> Option<Members<'_>> {
        // With `__slots__` the attributes are the first of two.
        let state = match self.get(object.state?) {
            Value::List(two) => *two.first()?,
            _ => object.state?,
        };
        let attributes = self.items(state)?;
        // An empty dict of parameters may be an object of a class of its own.
        let part = |name| Some(self.items(self.value(attributes, name)?).unwrap_or(&[]));
        let passing = self.value(attributes, "_non_persistent_buffers_set");
        Some(Members {
            parameters: part("_parameters")?,
            buffers: part("_buffers")?,
            modules: part("_modules")?,
            passing: passing.map_or(&[], |id| self.set_members(id)),
        })
    }

    fn is_module(&self, id: Id) -> bool {
        matches!(self.get(id), Value::Object(object) if self.members(object).is_some())
    }

    /// The members of a set, which protocols before 4 write as `set([…])`.
    fn set_members(&self, id: Id) -> &[Id] {
        match self.get(id) {
            Value::List(items) => items,
            Value::Object(set) => match self.get(set.arguments) {
                Value::List(arguments) => match arguments.first().map(|id| self.get(*id)) {
                    Some(Value::List(items)) => items,
                    _ => &[],
                },
                _ => &[],
            },
            _ => &[],
        }
    }
}

/// Tensors by name.
pub(super) fn names(pickle: &Pickle, top: Id) -> Result<BTreeMap<String, Rc<View>>> {
    let mut top = top;
    for _ in 0..MAX_DEPTH {
        let Value::Dict(items) = pickle.get(top) else { break };
        if items.iter().any(|(_, value)| matches!(pickle.get(*value), Value::Tensor(_))) {
            break;
        }
        let whole =
            |id: &Id| pickle.items(*id).is_some_and(|d| !d.is_empty()) || pickle.is_module(*id);
        let inner = WRAPPERS.iter().find_map(|wrapper| pickle.value(items, wrapper).filter(whole));
        let Some(inner) = inner else { break };
        top = inner;
    }
    match pickle.get(top) {
        Value::Object(object) if pickle.items(top).is_none() && !pickle.is_module(top) => {
            return Err(format!(
                "it holds an object of `{}`, which is no module of PyTorch (without _parameters, _buffers and _modules): save a state_dict",
                object.class
            ));
        }
        Value::Object(_) | Value::Dict(_) => {}
        _ => {
            return Err("it holds neither a dict of tensors nor a module: save a state_dict".into());
        }
    }
    let mut walk = Walk { pickle, found: BTreeMap::new(), visits: 0 };
    walk.visit("", top, 0)?;
    if walk.found.is_empty() {
        return Err("it holds no tensors".to_owned());
    }
    Ok(walk.found)
}

struct Walk<'a> {
    pickle: &'a Pickle,
    found: BTreeMap<String, Rc<View>>,
    visits: usize,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str, id: Id, depth: usize) -> Result<()> {
        self.visits += 1;
        if self.visits > MAX_VISITS || self.found.len() > MAX_TENSORS {
            return Err(format!("it holds more than {MAX_TENSORS} tensors"));
        }
        let pickle = self.pickle;
        let value = pickle.get(id);
        let nests = matches!(value, Value::Dict(_) | Value::List(_) | Value::Object(_));
        if nests && depth >= MAX_DEPTH {
            return Err(format!("it nests deeper than {MAX_DEPTH}, at `{name}`"));
        }
        match value {
            Value::Tensor(view) => {
                let twin = self.found.insert(name.to_owned(), view.clone());
                if twin.is_some() {
                    return Err(format!("two tensors have the name `{name}`"));
                }
            }
            Value::Dict(items) => self.visit_all(name, items, &[], depth)?,
            Value::List(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.visit(&join(name, &index.to_string())?, *value, depth + 1)?;
                }
            }
            Value::Object(object) => match pickle.members(object) {
                Some(members) => {
                    self.visit_all(name, members.parameters, &[], depth)?;
                    self.visit_all(name, members.buffers, members.passing, depth)?;
                    self.visit_all(name, members.modules, &[], depth)?;
                }
                None => self.visit_all(name, &object.items, &[], depth)?,
            },
            _ => {}
        }
        Ok(())
    }

    /// Visits the items of a dict but those named in `without`.
    fn visit_all(
        &mut self,
        name: &str,
        items: &[(Id, Id)],
        without: &[Id],
        depth: usize,
    ) -> Result<()> {
        let pickle = self.pickle;
        for (key, value) in items {
            let part = match pickle.get(*key) {
                Value::Text(text) => {
                    let same = |id: &Id| matches!(pickle.get(*id), Value::Text(t) if t == text);
                    if without.iter().any(same) {
                        continue;
                    }
                    join(name, text)?
                }
                Value::Int(number) => join(name, &number.to_string())?,
                _ => continue,
            };
            self.visit(&part, *value, depth + 1)?;
        }
        Ok(())
    }
}

fn join(name: &str, part: &str) -> Result<String> {
    if name.len() + part.len() >= MAX_NAME_BYTES {
        return Err(format!("a name has more than {MAX_NAME_BYTES} bytes"));
    }
    Ok(if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") })
}
