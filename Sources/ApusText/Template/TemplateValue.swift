/// A value inside a running template: Python's types as far as templates meet them.
enum TemplateValue {
    /// Jinja's default `Undefined`; the text says what was not there.
    case undefined(TemplateUndefined)
    case none
    case bool(Bool)
    case integer(Int)
    case double(Double)
    case string(String)
    /// Text marked with `safe` or made by `escape`: joining it with other text escapes that text.
    case markup(String)
    case list(TemplateList)
    case tuple(TemplateList)
    case dictionary(TemplateDictionary)
    case namespace(TemplateNamespace)
    /// Ranges, views of dictionaries and what lazy filters give.
    case sequence(TemplateSequence)
    case callable(TemplateCallable)
    case loop(TemplateLoopState)

    static func undefined(_ message: String) -> TemplateValue { .undefined(TemplateUndefined(message)) }
}

/// Owns every container that a running template makes. Containers may hold one another in cycles or in chains of any
/// length; because all are owned here, freeing one never frees another, and so needs no recursion.
final class TemplateHeap {
    private var objects: [(object: TemplateObject, bytes: Int)] = []
    private var bytes = 0
    private var sweepsAt = sweepMinimum

    private static let sweepMinimum = 16 << 20

    /// Owns an object of about this size.
    func own(_ object: TemplateObject, bytes size: Int) {
        guard !object.isOwned else { return }
        object.isOwned = true
        objects.append((object, size))
        bytes += size
        if bytes > sweepsAt { sweep() }
    }

    /// Drops the containers that nobody else holds. Those in cycles stay until the end.
    private func sweep() {
        var kept: [(object: TemplateObject, bytes: Int)] = []
        bytes = 0
        for index in objects.indices where !isKnownUniquelyReferenced(&objects[index].object) {
            kept.append(objects[index])
            bytes += objects[index].bytes
        }
        objects = kept
        sweepsAt = max(2 * bytes, Self.sweepMinimum)
    }

    /// Empties all containers; no value may be used afterwards.
    func release() {
        for (object, _) in objects { object.empty() }
        objects = []
    }
}

/// A container owned by the heap.
class TemplateObject {
    fileprivate var isOwned = false

    /// Without a heap, whoever makes the object sees to it that it is not kept.
    init(in heap: TemplateHeap?, bytes: Int) { heap?.own(self, bytes: bytes) }

    func empty() {}
}

/// Why a value is undefined.
final class TemplateUndefined {
    let message: String

    init(_ message: String) { self.message = message }
}

/// A list or a tuple: shared by all who hold it, as in Python.
final class TemplateList: TemplateObject {
    var items: [TemplateValue]

    init(_ items: [TemplateValue], in heap: TemplateHeap) {
        self.items = items
        super.init(in: heap, bytes: 64 + 24 * items.count)
    }

    override func empty() { items = [] }
}

/// A `namespace()`.
final class TemplateNamespace: TemplateObject {
    var attributes: [String: TemplateValue] = [:]

    init(in heap: TemplateHeap) { super.init(in: heap, bytes: 256) }

    override func empty() { attributes = [:] }
}

/// A dictionary in the order of insertion: shared by all who hold it, as in Python.
final class TemplateDictionary: TemplateObject {
    private(set) var entries: [(key: TemplateValue, value: TemplateValue)] = []
    private var positions: [TemplateKey: Int] = [:]

    init(in heap: TemplateHeap) { super.init(in: heap, bytes: 256) }

    var count: Int { entries.count }

    subscript(key: TemplateKey) -> TemplateValue? { positions[key].map { entries[$0].value } }

    subscript(key: String) -> TemplateValue? { self[TemplateKey(text: key)] }

    func set(_ key: TemplateKey, _ value: TemplateValue) {
        if let position = positions[key] {
            entries[position].value = value
        } else {
            positions[key] = entries.count
            entries.append((key.value, value))
        }
    }

    func set(_ key: String, _ value: TemplateValue) { set(TemplateKey(text: key), value) }

    func remove(_ key: TemplateKey) -> TemplateValue? {
        guard let position = positions.removeValue(forKey: key) else { return nil }
        let value = entries.remove(at: position).value
        for (key, other) in positions where other > position { positions[key] = other - 1 }
        return value
    }

    override func empty() {
        entries = []
        positions = [:]
    }
}

/// A value that can be a dictionary's key: equal keys are equal in Python, so `1`, `1.0` and `true` are one key.
struct TemplateKey: Hashable {
    let value: TemplateValue

    init(text: String) { value = .string(text) }

    /// Nil where the value cannot be hashed, as lists cannot.
    init?(_ value: TemplateValue) { self.init(value, depth: 0) }

    /// Tuples nested deeper than any honest key are refused as well: walking them could take forever.
    private init?(_ value: TemplateValue, depth: Int) {
        switch value {
        case .list, .dictionary, .namespace: return nil
        case .tuple(let tuple):
            guard depth < 4, tuple.items.allSatisfy({ TemplateKey($0, depth: depth + 1) != nil }) else { return nil }
        default: break
        }
        self.value = value
    }

    private init(unchecked value: TemplateValue) { self.value = value }

    static func == (left: TemplateKey, right: TemplateKey) -> Bool {
        var budget = Int.max
        return left.value.isEqual(to: right.value, budget: &budget)
    }

    func hash(into hasher: inout Hasher) {
        switch value {
        case .string(let text), .markup(let text):
            var text = text
            text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
        case .bool(let value): hasher.combine(value ? 1.0 : 0.0)
        case .integer(let value): hasher.combine(Double(value))
        case .double(let value): hasher.combine(value)
        case .tuple(let tuple):
            for item in tuple.items { TemplateKey(unchecked: item).hash(into: &hasher) }
        default: hasher.combine(0)
        }
    }
}

/// A sequence that is no list.
final class TemplateSequence: TemplateObject {
    enum Kind {
        /// `range`: can be indexed and measured.
        case range(start: Int, stop: Int, step: Int)
        /// `keys()`, `values()` and `items()`: can be measured.
        case view(String)
        /// A generator: can be walked once.
        case generator
    }

    let kind: Kind
    private(set) var items: [TemplateValue]
    /// How many items of a generator have been handed out.
    private var taken = 0

    init(_ kind: Kind, _ items: [TemplateValue], in heap: TemplateHeap) {
        self.kind = kind
        self.items = items
        super.init(in: heap, bytes: 64 + 24 * items.count)
    }

    override func empty() { items = [] }

    var isGenerator: Bool {
        if case .generator = kind { true } else { false }
    }

    /// All items left; of a generator they are gone afterwards.
    func drain() -> [TemplateValue] {
        guard isGenerator else { return items }
        defer { taken = items.count }
        return taken == 0 ? items : Array(items[taken...])
    }

    /// The next item of a generator, or the first of another sequence.
    func takeFirst() -> TemplateValue? {
        guard taken < items.count else { return nil }
        defer { if isGenerator { taken += 1 } }
        return items[taken]
    }
}

/// Something that can be called.
indirect enum TemplateCallable {
    case method(of: TemplateValue, String)
    case macro(TemplateMacro, TemplateScope)
    case function(String)
    case cycler(TemplateCycler)
    case joiner(TemplateJoiner)
}

/// A `cycler()`.
final class TemplateCycler: TemplateObject {
    private(set) var items: [TemplateValue]
    var position = 0

    init(_ items: [TemplateValue], in heap: TemplateHeap) {
        self.items = items
        super.init(in: heap, bytes: 64 + 24 * items.count)
    }

    override func empty() { items = [] }
}

/// A `joiner()`: gives its separator from the second call on.
final class TemplateJoiner {
    let separator: String
    var isUsed = false

    init(_ separator: String) { self.separator = separator }
}

/// Names and values; a name that is missing is looked up in the scope around it.
final class TemplateScope: TemplateObject {
    var variables: [String: TemplateValue] = [:]
    let parent: TemplateScope?

    /// The heap owns a scope only from when a macro captures it.
    init(parent: TemplateScope?) {
        self.parent = parent
        super.init(in: nil, bytes: 0)
    }

    override func empty() { variables = [:] }

    func find(_ name: String) -> TemplateValue? {
        var scope: TemplateScope? = self
        while let current = scope {
            if let value = current.variables[name] { return value }
            scope = current.parent
        }
        return nil
    }
}

/// A running `for`: what `loop` is. Items are filtered as they are taken, as Jinja's generators do.
final class TemplateLoopState: TemplateObject {
    private var source: [TemplateValue]
    private var position = 0
    /// Items that were asked about before their turn; those before `aheadStart` have had it.
    private var ahead: [TemplateValue] = []
    private var aheadStart = 0
    private var accepts: ((TemplateValue) throws(TemplateError) -> Bool)?
    private(set) var index = -1
    private(set) var current: TemplateValue?
    private(set) var previous: TemplateValue?
    /// What `loop.changed` was last called with.
    var lastChanged: [TemplateValue]?

    init(
        _ source: [TemplateValue], in heap: TemplateHeap,
        accepts: ((TemplateValue) throws(TemplateError) -> Bool)?
    ) {
        self.source = source
        self.accepts = accepts
        super.init(in: heap, bytes: 128)
    }

    override func empty() {
        source = []
        ahead = []
        accepts = nil
        current = nil
        previous = nil
        lastChanged = nil
    }

    func advance() throws(TemplateError) -> TemplateValue? {
        var next: TemplateValue?
        if aheadStart < ahead.count {
            next = ahead[aheadStart]
            aheadStart += 1
        } else {
            next = try pull()
        }
        guard let item = next else { return nil }
        previous = current
        current = item
        index += 1
        return item
    }

    func next() throws(TemplateError) -> TemplateValue? {
        if aheadStart == ahead.count, let item = try pull() { ahead.append(item) }
        return aheadStart < ahead.count ? ahead[aheadStart] : nil
    }

    func length() throws(TemplateError) -> Int {
        if accepts == nil { return source.count }
        while let item = try pull() { ahead.append(item) }
        return index + 1 + ahead.count - aheadStart
    }

    private func pull() throws(TemplateError) -> TemplateValue? {
        while position < source.count {
            let item = source[position]
            position += 1
            if try accepts?(item) ?? true { return item }
        }
        return nil
    }
}
