import ApusText

/// What is inside a model file: header, tensors, sizes, and the configuration as far as there is one.
///
/// For people (``text``) and programs (``json``). Reads headers only.
public struct FileSummary: Sendable {
    /// A tensor as the header states it.
    public struct TensorEntry: Sendable {
        /// Its name.
        public let name: String
        /// Its element type in the file's own spelling.
        public let dtype: String
        /// Extents, outermost first.
        public let extents: [Int]
        /// Bytes it takes, or nil for a type of unknown size.
        public let byteCount: Int?
        /// The file it lies in.
        public let file: String
    }

    /// Totals of one element type.
    public struct Total: Sendable {
        /// The type.
        public let dtype: String
        /// Tensors of it.
        public var tensors = 0
        /// Their elements.
        public var elements = 0
        /// Their bytes (those of unknown size not counted).
        public var byteCount = 0
    }

    /// The path given.
    public let path: String
    /// The format, with its version.
    public let format: String
    /// Files and their sizes in bytes.
    public let files: [(path: String, byteCount: Int)]
    /// The header's own keys and values, long arrays abbreviated.
    public let metadata: [(key: String, value: JSONValue)]
    /// All tensors in the files' order.
    public let tensors: [TensorEntry]
    /// The configuration, or why there is none.
    public let configuration: Result<DecoderConfiguration, ConfigurationAbsence>

    /// Why a file has no configuration that can be read.
    public struct ConfigurationAbsence: Error, Sendable, CustomStringConvertible {
        /// The reason in words.
        public let description: String
    }

    /// Elements of a metadata array that are shown.
    static let shownElements = 6

    /// Summarises a GGUF file, a safetensors file, an index of shards, or a Hugging Face folder.
    public init(path: String) throws {
        if FilePath.isFolder(path) {
            self.init(path: path, try SafetensorsSet(folder: path))
            return
        }
        try self.init(MappedFile(path: path))
    }

    /// Summarises a file of one of these formats.
    public init(_ file: MappedFile) throws {
        if file.starts(with: "GGUF") {
            try self.init(path: file.name, GGUFFile(file))
        } else if file.isJSONObject {
            self.init(path: file.name, try SafetensorsSet(indexPath: file.name))
        } else {
            self.init(path: file.name, SafetensorsSet(try SafetensorsFile(file)))
        }
    }

    private init(path: String, _ file: GGUFFile) throws {
        self.path = path
        format = "GGUF version \(file.version), alignment \(file.alignment)"
        files = [(file.file.name, file.file.byteCount)]
        metadata = try file.metadata.entries.map { ($0.key, try Self.json($0.value)) }
        tensors = file.tensors.map {
            TensorEntry(
                name: $0.name, dtype: $0.type.description, extents: $0.extents, byteCount: $0.byteCount,
                file: file.file.name)
        }
        configuration = Self.configuration { try DecoderConfiguration(gguf: file) }
    }

    private init(path: String, _ set: SafetensorsSet) {
        self.path = path
        format = set.files.count == 1 ? "safetensors" : "safetensors in \(set.files.count) shards"
        files = set.files.map { ($0.file.name, $0.file.byteCount) }
        var seen: Set<String> = []
        metadata = set.files.flatMap(\.metadata).filter { seen.insert("\($0.key)=\($0.value)").inserted }
            .map { ($0.key, .string($0.value)) }
        tensors = set.files.flatMap { file in
            file.tensors.map {
                TensorEntry(
                    name: $0.name, dtype: $0.type.description, extents: $0.extents, byteCount: $0.byteCount,
                    file: file.file.name)
            }
        }
        configuration = Self.configuration { try Checkpoints.open(path).configuration }
    }

    private static func configuration(
        _ read: () throws -> DecoderConfiguration
    ) -> Result<DecoderConfiguration, ConfigurationAbsence> {
        do { return .success(try read()) } catch { return .failure(ConfigurationAbsence(description: "\(error)")) }
    }

    private static func json(_ value: GGUFValue) throws -> JSONValue {
        switch value {
        case .bool(let flag): return .bool(flag)
        case .string(let text): return .string(text)
        case .array(let array):
            let shown = try array.values(limit: shownElements).map(json)
            if array.count <= shownElements { return .array(shown) }
            return [
                "type": .string("\(array.elementType)"), "count": .integer(Int64(array.count)), "first": .array(shown),
            ]
        case .float32(let number):
            // JSON has no NaN and no infinity.
            return number.isFinite ? .double(Double("\(number)") ?? Double(number)) : .string("\(number)")
        case .float64(let number): return number.isFinite ? .double(number) : .string("\(number)")
        case .uint64(let number): return Int64(exactly: number).map(JSONValue.integer) ?? .double(Double(number))
        default: return .integer(Int64(value.integer ?? 0))
        }
    }

    /// Totals per element type, the largest first.
    public var totals: [Total] {
        var totals: [String: Total] = [:]
        for tensor in tensors {
            var total = totals[tensor.dtype] ?? Total(dtype: tensor.dtype)
            total.tensors += 1
            // Types of unknown size are not held against the file's, so that their elements may add up to anything.
            let (sum, overflow) = total.elements.addingReportingOverflow(tensor.extents.reduce(1, *))
            total.elements = overflow ? .max : sum
            total.byteCount += tensor.byteCount ?? 0
            totals[tensor.dtype] = total
        }
        return totals.values.sorted { ($1.byteCount, $0.dtype) < ($0.byteCount, $1.dtype) }
    }
}
