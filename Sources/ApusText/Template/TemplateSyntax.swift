/// An expression of a template with its place.
struct TemplateExpression: Sendable {
    indirect enum Kind: Sendable {
        case literal(TemplateLiteral)
        case name(String)
        case list([TemplateExpression])
        case tuple([TemplateExpression])
        case dictionary([TemplatePair])
        case attribute(TemplateExpression, String)
        case element(TemplateExpression, TemplateExpression)
        case slice(TemplateExpression, TemplateSlice)
        case call(TemplateExpression, TemplateCallSyntax)
        case filter(TemplateExpression, String, TemplateCallSyntax)
        case test(TemplateExpression, String, TemplateCallSyntax)
        case not(TemplateExpression)
        case negate(TemplateExpression)
        case positive(TemplateExpression)
        /// Operators of one precedence, from left to right.
        case chain(TemplateExpression, [TemplateOperation])
        case concatenation([TemplateExpression])
        case comparison(TemplateExpression, [TemplateOperation])
        case and([TemplateExpression])
        case or([TemplateExpression])
        case conditional(condition: TemplateExpression, TemplateExpression, otherwise: TemplateExpression?)
        /// What the block around a `{% filter %}` or `{% set %}` filter rendered.
        case captured
    }

    let kind: Kind
    let place: TemplatePlace
    /// Nested expressions below this one; bounded, so that walking and freeing the tree cannot exhaust the stack.
    let depth: Int
}

/// A constant.
enum TemplateLiteral: Sendable {
    case none
    case bool(Bool)
    case integer(Int)
    case double(Double)
    case string(String)
}

/// A key and its value in a dictionary display.
struct TemplatePair: Sendable {
    let key: TemplateExpression
    let value: TemplateExpression
}

/// The parts of `[start:stop:step]`.
struct TemplateSlice: Sendable {
    var start: TemplateExpression?
    var stop: TemplateExpression?
    var step: TemplateExpression?
}

/// The arguments of a call as written.
struct TemplateCallSyntax: Sendable {
    var positional: [TemplateExpression] = []
    var keyword: [(name: String, value: TemplateExpression)] = []
    var unpackedPositional: TemplateExpression?
    var unpackedKeyword: TemplateExpression?

    var all: [TemplateExpression] {
        positional + keyword.map(\.value) + [unpackedPositional, unpackedKeyword].compactMap { $0 }
    }
}

/// An operator and its right operand.
struct TemplateOperation: Sendable {
    let symbol: TemplateOperator
    let operand: TemplateExpression
}

/// Binary operators and comparisons.
enum TemplateOperator: String, Sendable {
    case add = "+"
    case subtract = "-"
    case multiply = "*"
    case divide = "/"
    case floorDivide = "//"
    case remainder = "%"
    case power = "**"
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
    case isIn = "in"
    case isNotIn = "not in"
}

/// What `set` and `for` assign to.
enum TemplateTarget: Sendable {
    case name(String)
    case attribute(of: String, String, TemplatePlace)
    case tuple([TemplateTarget])
}

/// A statement of a template.
indirect enum TemplateStatement: Sendable {
    case text(String, TemplatePlace)
    case output(TemplateExpression)
    case branch([TemplateBranch], otherwise: [TemplateStatement])
    case loop(TemplateLoop)
    case set(TemplateTarget, TemplateExpression)
    case setBlock(TemplateTarget, value: TemplateExpression, [TemplateStatement])
    case macro(TemplateMacro)
    case callBlock(caller: TemplateMacro, TemplateExpression)
    case filterBlock(value: TemplateExpression, [TemplateStatement])
    case with([TemplateBinding], [TemplateStatement])
    case breakLoop
    case continueLoop
}

/// A name bound by `{% with %}`.
struct TemplateBinding: Sendable {
    let target: TemplateTarget
    let value: TemplateExpression
}

/// One `if` or `elif`.
struct TemplateBranch: Sendable {
    let condition: TemplateExpression
    let body: [TemplateStatement]
}

/// A `for` statement.
struct TemplateLoop: Sendable {
    let target: TemplateTarget
    let items: TemplateExpression
    let filter: TemplateExpression?
    let body: [TemplateStatement]
    let otherwise: [TemplateStatement]
}

/// A `macro` statement, or the body of a `call` statement.
final class TemplateMacro: Sendable {
    struct Parameter: Sendable {
        let name: String
        let fallback: TemplateExpression?
    }

    let name: String
    let parameters: [Parameter]
    let body: [TemplateStatement]
    let place: TemplatePlace
    /// Which of `varargs`, `kwargs` and `caller` the body mentions: only then may a call pass them.
    let implicitNames: Set<String>

    init(
        name: String, parameters: [Parameter], body: [TemplateStatement], place: TemplatePlace,
        implicitNames: Set<String>
    ) {
        self.name = name
        self.parameters = parameters
        self.body = body
        self.place = place
        self.implicitNames = implicitNames
    }
}
