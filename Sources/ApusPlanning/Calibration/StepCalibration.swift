import ApusText

/// Measured times of steps on one device, as `apus bench steps` writes them, and what other steps take by them.
///
/// A step takes `layers(tokens) + head(logit rows) + context x a + pairs x b + rows x c + d`: products by a table of measured
/// numbers of rows with straight lines between them, attention by seconds per token that a decoding row reads (a) and per
/// pair of a query and a key in prompts (b), and what the engine does beside the model for each row (c) and step (d).
///
/// On a GPU steps without prompts run otherwise, as recorded graphs, and their blocks read contexts side by side, so that a
/// token read costs less the more rows there are: they have a table of their own, with the head, and with `a` for each number
/// of rows.
public struct StepCalibration: StepCost, Equatable {
    /// A measured time.
    public struct Point: Sendable, Hashable {
        /// Rows.
        public var rows: Int
        /// Seconds.
        public var seconds: Double

        /// A point.
        public init(rows: Int, seconds: Double) {
            self.rows = rows
            self.seconds = seconds
        }
    }

    /// A measured time of steps in which each of so many sequences gets one token.
    public struct DecodingPoint: Sendable, Hashable {
        /// Sequences.
        public var rows: Int
        /// Seconds, layers and head, without what attention takes for what it reads.
        public var seconds: Double
        /// Seconds per cached token that a row reads.
        public var secondsPerContext: Double

        /// A point.
        public init(rows: Int, seconds: Double, secondsPerContext: Double) {
            self.rows = rows
            self.seconds = seconds
            self.secondsPerContext = secondsPerContext
        }
    }

    /// The model's name.
    public var model: String
    /// What it ran on.
    public var device: String
    /// Elements of the model, so that a calibration of another is told.
    public var parameters: Int
    /// Seconds of the layers by rows of a step with few cached tokens; of one with prompts where ``decoding`` has points.
    public var layers: [Point]
    /// Seconds of the head by rows.
    public var head: [Point]
    /// Steps without prompts, where they run otherwise than those with; empty where they do not.
    public var decoding: [DecodingPoint]
    /// Seconds per cached token that a decoding row reads, where ``decoding`` has no points.
    public var secondsPerContext: Double
    /// Seconds per pair of a query and a key of a prompt.
    public var secondsPerPair: Double
    /// Seconds beside the model, per row that is drawn.
    public var secondsPerDraw: Double
    /// Seconds beside the model, per step.
    public var secondsPerStep: Double
    /// Steps of more tokens round activations; nil for no limit.
    public var exactTokens: Int?

    /// None: contexts of models with windows are counted in full.
    public var window: Int { Int.max / 4 }

    /// A calibration. Precondition: `layers` and `head` have a point, rows ascending in all tables.
    public init(
        model: String, device: String, parameters: Int, layers: [Point], head: [Point],
        decoding: [DecodingPoint] = [], secondsPerContext: Double, secondsPerPair: Double, secondsPerDraw: Double = 0,
        secondsPerStep: Double = 0, exactTokens: Int? = nil
    ) {
        precondition(!layers.isEmpty && !head.isEmpty)
        self.model = model
        self.device = device
        self.parameters = parameters
        self.layers = layers
        self.head = head
        self.decoding = decoding
        self.secondsPerContext = secondsPerContext
        self.secondsPerPair = secondsPerPair
        self.secondsPerDraw = secondsPerDraw
        self.secondsPerStep = secondsPerStep
        self.exactTokens = exactTokens
    }

    /// See ``StepCost/seconds(_:)``.
    public func seconds(_ groups: [StepWork]) -> Double { groups.reduce(0) { max($0, seconds($1)) } }

    /// Seconds of one step.
    public func seconds(_ work: StepWork) -> Double {
        guard !work.isEmpty else { return 0 }
        // A recorded step is of one of the measured numbers of rows: fewer take the time of the next larger one.
        let point = decoding.first { $0.rows >= work.decodeRows } ?? decoding.last
        let beside =
            (point?.secondsPerContext ?? secondsPerContext) * Double(work.decodeContext)
            + secondsPerDraw * Double(work.logitRows) + secondsPerStep
        if let point, work.promptTokens == 0 {
            return point.seconds * max(Double(work.decodeRows) / Double(point.rows), 1) + beside
        }
        return Self.interpolated(layers, work.tokens) + Self.interpolated(head, work.logitRows)
            + secondsPerPair * Double(work.promptPairs) + beside
    }

    /// A straight line between neighbours; the first point below it, and after the last in proportion to the rows.
    static func interpolated(_ points: [Point], _ rows: Int) -> Double {
        guard rows > 0 else { return 0 }
        let after = points.firstIndex { $0.rows >= rows } ?? points.count
        if after == points.count { return points[after - 1].seconds * Double(rows) / Double(points[after - 1].rows) }
        let right = points[after]
        guard after > 0, right.rows > rows else { return right.seconds }
        let left = points[after - 1]
        let share = Double(rows - left.rows) / Double(right.rows - left.rows)
        return left.seconds + (right.seconds - left.seconds) * share
    }
}

extension StepCalibration {
    /// The calibration in a file's JSON.
    /// - Throws: ``JSONError`` where a member is missing or out of range.
    public init(json node: JSONNode) throws {
        func list<T>(_ list: JSONNode, _ element: (_ point: JSONNode, _ rows: Int) throws -> T) throws -> [T] {
            var last = 0
            return try list.elements().map { point in
                let rows = try point.child("rows").int(in: 1...1 << 24)
                guard rows > last else {
                    throw try point.child("rows").error(expected: "more rows than the point before")
                }
                last = rows
                return try element(point, rows)
            }
        }
        func points(_ key: String) throws -> [Point] {
            let result = try list(node.child(key, expected: "a list of points")) {
                Point(rows: $1, seconds: try Self.seconds($0, "seconds"))
            }
            guard !result.isEmpty else { throw try node.child(key).error(expected: "at least one point") }
            return result
        }
        let decoding = try node.optional("decoding").map {
            try list($0) {
                DecodingPoint(
                    rows: $1, seconds: try Self.seconds($0, "seconds"),
                    secondsPerContext: try Self.seconds($0, "secondsPerContext"))
            }
        }
        try self.init(
            model: node.string("model"), device: node.string("device"),
            parameters: node.child("parameters").int(in: 1...Int.max), layers: points("layers"), head: points("head"),
            decoding: decoding ?? [], secondsPerContext: Self.seconds(node, "secondsPerContext"),
            secondsPerPair: Self.seconds(node, "secondsPerPair"),
            secondsPerDraw: Self.seconds(node, "secondsPerDraw"),
            secondsPerStep: Self.seconds(node, "secondsPerStep"),
            exactTokens: node.optional("exactTokens")?.int(in: 1...Int.max))
    }

    private static func seconds(_ node: JSONNode, _ key: String) throws -> Double {
        let child = try node.child(key, expected: "seconds")
        let value = try child.double()
        guard value >= 0, value < 1e6 else { throw child.error(expected: "seconds from 0 to below 1e6") }
        return value
    }

    /// The calibration as JSON, which ``init(json:)`` reads.
    public var json: JSONValue {
        func list(_ points: [Point]) -> JSONValue {
            .array(points.map { ["rows": .integer(Int64($0.rows)), "seconds": .double($0.seconds)] })
        }
        var object = JSONObject()
        object["model"] = .string(model)
        object["device"] = .string(device)
        object["parameters"] = .integer(Int64(parameters))
        object["layers"] = list(layers)
        object["head"] = list(head)
        if !decoding.isEmpty {
            object["decoding"] = .array(
                decoding.map {
                    [
                        "rows": .integer(Int64($0.rows)), "seconds": .double($0.seconds),
                        "secondsPerContext": .double($0.secondsPerContext),
                    ]
                })
        }
        object["secondsPerContext"] = .double(secondsPerContext)
        object["secondsPerPair"] = .double(secondsPerPair)
        object["secondsPerDraw"] = .double(secondsPerDraw)
        object["secondsPerStep"] = .double(secondsPerStep)
        if let exactTokens { object["exactTokens"] = .integer(Int64(exactTokens)) }
        return .object(object)
    }
}
