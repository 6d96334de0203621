//! Visiting and mapping the parameters of a network by name.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Follows the path of fields during a visit.
#[derive(Debug, Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        let variant = container.starts_with("Enum:");
        self.0.push(if variant { String::new() } else { name.to_owned() });
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        let mut name = String::new();
        for part in self.0.iter().filter(|part| !part.is_empty()) {
            if !name.is_empty() {
                name.push('.');
            }
            match part.split_once("_at_") {
                Some((list, index)) => {
                    name.push_str(list);
                    name.push('.');
                    name.push_str(index);
                }
                None => name.push_str(part),
            }
        }
        name
    }
}

/// Calls `visit(name, parameter)` for every float parameter, in order.
pub trait ParamVisitor {
    /// One parameter.
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

struct Visit<'a, V>(Path, &'a mut V);

impl<V: ParamVisitor> ModuleVisitor for Visit<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.visit(&self.0.name(), param);
    }
}

/// Visits the parameters of a network by name.
pub fn visit<M: Module, V: ParamVisitor>(module: &M, visitor: &mut V) {
    module.visit(&mut Visit(Path::default(), visitor));
}

/// Replaces parameters by name.
pub trait ParamMapper {
    /// The new value of one parameter; the old one to keep it.
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

struct Map<'a, V>(Path, &'a mut V);

impl<V: ParamMapper> ModuleMapper for Map<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.0.name();
        self.1.map(&name, param)
    }
}

/// Maps the parameters of a network by name.
pub fn map<M: Module, V: ParamMapper>(module: M, mapper: &mut V) -> M {
    module.map(&mut Map(Path::default(), mapper))
}
