import ApusAttention

/// What the first rank tells the others that compute a cut model with it.
///
/// It alone has requests, plans steps and draws; the others do the work of the decoder, each on its part.
enum RankCommand: Equatable {
    /// Runs the layers over new tokens.
    case layers(tokens: [Int32], tables: [StepTable])
    /// Rows of the last step's hidden states go through the head.
    case logits(rows: [Int32])
    /// The likeliest tokens after rows of the last step.
    case likeliest(rows: [Int32])
    /// Copies a page of the cache.
    case copyPage(from: Int32, to: Int32)
    /// Nothing: the first rank is there, and has nothing to do.
    case idle
    /// The engine has ended.
    case stop

    /// Numbers from which ``init(_:)`` makes it again.
    var numbers: [Int32] {
        switch self {
        case .layers(let tokens, let tables):
            var result: [Int32] = [0, Int32(tokens.count)] + tokens + [Int32(tables.count)]
            for table in tables {
                result += [Int32(table.length), Int32(table.tokens), Int32(table.pages.count)] + table.pages
            }
            return result
        case .logits(let rows): return [1] + rows
        case .copyPage(let from, let to): return [2, from, to]
        case .idle: return [3]
        case .stop: return [4]
        case .likeliest(let rows): return [5] + rows
        }
    }

    /// Reads ``numbers``; nil where they are something else.
    init?(_ numbers: [Int32]) {
        var rest = numbers[...]
        func next() -> Int? { rest.popFirst().map(Int.init) }
        func take(_ count: Int) -> [Int32]? {
            guard count >= 0, rest.count >= count else { return nil }
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        switch next() {
        case 0:
            guard let count = next(), let tokens = take(count), let tableCount = next() else { return nil }
            var tables: [StepTable] = []
            for _ in 0..<max(tableCount, 0) {
                guard let length = next(), let count = next(), let pageCount = next(), let pages = take(pageCount)
                else { return nil }
                tables.append(StepTable(pages: pages, length: length, tokens: count))
            }
            self = .layers(tokens: tokens, tables: tables)
        case 1: self = .logits(rows: Array(rest))
        case 2:
            guard let pages = take(2) else { return nil }
            self = .copyPage(from: pages[0], to: pages[1])
        case 3: self = .idle
        case 4: self = .stop
        case 5: self = .likeliest(rows: Array(rest))
        default: return nil
        }
    }
}
