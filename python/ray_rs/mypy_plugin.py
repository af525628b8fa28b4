"""A plugin for mypy: classes under `@ray.remote`, and what handles of them can do.

mypy gives a decorated class the type that it had before, whatever its decorator returns; so `Counter.remote(...)` is
unknown to it. With this plugin the call takes the constructor's parameters, each also as a reference, and gives a
handle whose methods, decorated or not, are known. In pyproject.toml:

    [tool.mypy]
    plugins = ["ray_rs.mypy_plugin"]
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.maptype import map_instance_to_supertype
from mypy.nodes import (
    ARG_POS,
    ARG_STAR,
    ARG_STAR2,
    MDEF,
    Decorator,
    FuncDef,
    MemberExpr,
    OverloadedFuncDef,
    SymbolTableNode,
    TypeInfo,
    Var,
)
from mypy.plugin import AnalyzeTypeContext, AttributeContext, ClassDefContext, MethodSigContext, Plugin
from mypy.subtypes import find_member
from mypy.typeops import type_object_type
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    Overloaded,
    Type,
    TypeOfAny,
    TypeType,
    UnionType,
    get_proper_type,
)

_DECORATOR = "ray_rs.api.remote", "ray_rs._typing.remote"
_HANDLES = "ray_rs._core.ActorHandle", "ray_rs._typing.TypedHandle"
_CALLS = (
    *(f"ray_rs._typing.{name}.remote" for name in ("Remote", "RemoteFunction", "RemoteGenerator", "RemoteMethod")),
    *(f"ray_rs.actor.{name}.remote" for name in ("ActorClass", "_ActorClassWithOptions", "_Creates")),
)
# What `@remote` puts on a class.
_ATTRIBUTES = ("remote", "options", "bind")


class RayPlugin(Plugin):
    """Hooks for decorated classes, their handles, and calls."""

    def get_class_decorator_hook_2(self, fullname: str) -> Callable[[ClassDefContext], bool] | None:
        return _mark if fullname in _DECORATOR else None

    def get_class_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _class_attribute if fullname.rpartition(".")[2] in _ATTRIBUTES else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return _handle_attribute if fullname.rpartition(".")[0] in _HANDLES else None

    def get_type_analyze_hook(self, fullname: str) -> Callable[[AnalyzeTypeContext], Type] | None:
        return _proxy if fullname == "ray_rs._typing.ActorProxy" else None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        return _call if fullname in _CALLS else None


def plugin(version: str) -> type[RayPlugin]:
    """What mypy looks for."""
    return RayPlugin


def _mark(context: ClassDefContext) -> bool:
    """Lets the class have the names; their types are found when they are used."""
    info = context.cls.info
    for name in _ATTRIBUTES:
        if name not in info.names:
            variable = Var(name, AnyType(TypeOfAny.special_form))
            variable.info = info
            variable.is_classvar = True
            variable._fullname = f"{info.fullname}.{name}"
            info.names[name] = SymbolTableNode(MDEF, variable, plugin_generated=True)
    info.metadata["ray_rs"] = {"actor": True}
    return True


def _class_attribute(context: AttributeContext) -> Type:
    """`Counter.remote` and its like."""
    owner = get_proper_type(context.type)
    constructor = owner if isinstance(owner, FunctionLike) and owner.is_type_obj() else None
    if constructor is None or not isinstance(context.context, MemberExpr):
        return context.default_attr_type
    info = constructor.type_object()
    if not any("ray_rs" in base.metadata for base in info.mro):
        return context.default_attr_type
    if context.context.name == "remote":
        handle = _named(context, "ray_rs._typing", "TypedHandle", [_instance(constructor)])
        return _widened(context, constructor, handle) if handle is not None else context.default_attr_type
    if context.context.name == "options":
        actor_class = _named(context, "ray_rs.actor", "ActorClass", [_instance(constructor)])
        options = get_proper_type(find_member("options", actor_class, actor_class)) if actor_class else None
        return options or context.default_attr_type
    return context.default_attr_type


def _instance(constructor: FunctionLike) -> Type:
    return constructor.items[0].ret_type


def _proxy(context: AnalyzeTypeContext) -> Type:
    """`ActorProxy[T]` is the handle alone: the union is for checkers without a plugin."""
    arguments = [context.api.analyze_type(argument) for argument in context.type.args]
    return context.api.named_type("ray_rs._typing.TypedHandle", arguments or [AnyType(TypeOfAny.from_omitted_generics)])


def _handle_attribute(context: AttributeContext) -> Type:
    """`handle.method`."""
    handle = get_proper_type(context.type)
    if not isinstance(handle, Instance) or not handle.args or not isinstance(context.context, MemberExpr):
        return context.default_attr_type
    actor = get_proper_type(handle.args[0])
    if not isinstance(actor, Instance):
        return _dynamic(context)
    name = context.context.name
    symbol = actor.type.get(name)
    if symbol is None:
        known = name.startswith("__ray_") or name == "__init__" or actor.type.fallback_to_any
        if not known:
            context.api.fail(f'The actor class "{actor.type.name}" has no method "{name}"', context.context)
        return _dynamic(context)
    if isinstance(symbol.node, Var) and (made := _of_decorated(context, get_proper_type(symbol.node.type), actor)):
        return made
    if isinstance(symbol.node, Decorator):
        if made := _of_decorated(context, get_proper_type(symbol.node.type), actor):
            return made
    elif not isinstance(symbol.node, FuncDef | OverloadedFuncDef):
        return _dynamic(context)
    function = get_proper_type(find_member(name, actor, actor))
    if not isinstance(function, CallableType):
        return _dynamic(context)
    given = _given(context, get_proper_type(function.ret_type))
    return _named(context, "ray_rs._typing", "Remote", [function, given]) or _dynamic(context)


def _of_decorated(context: AttributeContext, kind: Type | None, actor: Instance) -> Type | None:
    """For a method under `@ray.method`."""
    kind = get_proper_type(kind)
    if isinstance(kind, Instance) and kind.type.fullname == "ray_rs._typing.Method":
        return _named(context, "ray_rs._typing", "RemoteMethod", list(kind.args))
    return None


def _dynamic(context: AttributeContext) -> Type:
    return _named(context, "ray_rs._core", "ActorMethod", []) or context.default_attr_type


def _given(context: AttributeContext, returned: Type) -> Type:
    """What a call gives whose method returns this."""
    returned = get_proper_type(returned)
    if isinstance(returned, Instance):
        for stream in ("typing.Iterator", "typing.AsyncIterator"):
            base = next((base for base in returned.type.mro if base.fullname == stream), None)
            if base is not None:
                item = map_instance_to_supertype(returned, base).args[0]
                return _named(context, "ray_rs._generator", "ObjectRefGenerator", [item]) or returned
        if returned.type.fullname == "typing.Coroutine":
            returned = returned.args[2]
    return _reference(context, returned)


def _call(context: MethodSigContext) -> FunctionLike:
    """`f.remote`: the function's own parameters, each also as a reference.

    mypy asks for each overload of `remote`. One of them stands for all; the others are given more parameters than
    anybody passes, so that mypy's message is about the one.
    """
    owner, signature = get_proper_type(context.type), context.default_signature
    base = None
    if isinstance(owner, Instance):
        base = next((base for base in owner.type.mro if base.fullname == "ray_rs._typing.Remote"), None)
    if base is None or not isinstance(owner, Instance):
        return signature
    kind, given = map_instance_to_supertype(owner, base).args
    kind = get_proper_type(kind)
    function: Type | None = kind
    if isinstance(kind, TypeType) and isinstance(made := get_proper_type(kind.item), Instance):
        # The class of an actor.
        function = type_object_type(made.type)
        given = _named(context, "ray_rs._typing", "TypedHandle", [made]) or given
    if not isinstance(function, CallableType):
        return signature
    as_they_are = (function.arg_kinds, function.arg_names), ([ARG_STAR, ARG_STAR2], ["args", "kwargs"])
    if (signature.arg_kinds, signature.arg_names) in as_they_are:
        return _widened_callable(context, function, given)
    many = 24
    return signature.copy_modified(
        arg_types=[AnyType(TypeOfAny.special_form)] * many, arg_kinds=[ARG_POS] * many, arg_names=[None] * many
    )


def _widened(context: AttributeContext, function: FunctionLike, given: Type) -> Type:
    items = [_widened_callable(context, item, given) for item in function.items]
    return items[0] if len(items) == 1 else Overloaded(items)


def _widened_callable(
    context: AttributeContext | MethodSigContext, function: CallableType, given: Type
) -> CallableType:
    """The same parameters, each also as a reference to its value."""
    kinds = [UnionType.make_union([kind, _reference(context, kind)]) for kind in function.arg_types]
    if function.param_spec() is not None:  # its parameters are not known one by one
        kinds = list(function.arg_types)
    fallback = context.api.named_generic_type("builtins.function", [])
    return function.copy_modified(arg_types=kinds, ret_type=given, fallback=fallback)


def _reference(context: AttributeContext | MethodSigContext, kind: Type) -> Type:
    return _named(context, "ray_rs._core", "ObjectRef", [kind]) or kind


def _named(
    context: AttributeContext | MethodSigContext, module: str, name: str, arguments: list[Type]
) -> Instance | None:
    tree = context.api.modules.get(module)  # type: ignore[attr-defined]
    symbol = tree.names.get(name) if tree is not None else None
    return Instance(symbol.node, arguments) if symbol is not None and isinstance(symbol.node, TypeInfo) else None
