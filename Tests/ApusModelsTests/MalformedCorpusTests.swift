import ApusModels
import ApusText
import FoundationEssentials
import Testing

/// The fuzzers' seeds and every input they ever found (`Fuzz/corpus`): each must be read or refused, in bounds.
@Suite struct MalformedCorpusTests {
    private func files(_ target: String) throws -> [MappedFile] {
        let folder = Fixtures.folder + "/../../Fuzz/corpus/" + target
        let names = try FileManager.default.contentsOfDirectory(atPath: folder)
        #expect(!names.isEmpty)
        return try names.sorted().map { try MappedFile(path: folder + "/" + $0) }
    }

    @Test func ggufInputsAreReadOrRefused() throws {
        var read = 0
        for file in try files("gguf") {
            guard let opened = try? GGUFFile(file) else { continue }
            read += 1
            for (_, value) in opened.metadata.entries { _ = try value.array?.values() }
            for info in opened.tensors {
                guard let tensor = try? opened.tensor(named: info.name) else { continue }
                #expect(tensor.byteCount == info.byteCount)
                _ = tensor.firstNotFinite()
            }
            _ = try? GGUFCheckpoint(opened).configuration.tensorRoles
        }
        #expect(read >= 2)
    }

    @Test func safetensorsInputsAreReadOrRefused() throws {
        var read = 0
        for file in try files("safetensors") {
            guard let opened = try? SafetensorsFile(file) else { continue }
            read += 1
            for info in opened.tensors {
                guard let tensor = try? opened.tensor(named: info.name) else { continue }
                #expect(tensor.byteCount == info.byteCount)
                _ = tensor.firstNotFinite()
            }
        }
        #expect(read >= 1)
    }

    @Test func configurationInputsAreReadOrRefused() throws {
        var read = 0
        for file in try files("config") {
            guard let configuration = try? DecoderConfiguration(json: file) else { continue }
            read += 1
            for role in configuration.tensorRoles { #expect(configuration.shape(of: role).count > 0) }
        }
        #expect(read >= 8)
    }

    @Test func tokenizerInputsAreReadOrRefused() throws {
        var read = 0
        for file in try files("tokenizer") {
            let bytes = try Data(contentsOf: URL(filePath: file.name))
            bytes.withUnsafeBytes { bytes in
                #expect(fuzzJSON(bytes), "\(file.name)")
                fuzzTokenizerJSON(bytes)
                if (try? Tokenizer(tokenizerJSON: bytes)) != nil { read += 1 }
            }
        }
        #expect(read >= 5)
    }
}
