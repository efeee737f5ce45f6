import CApusMPI

/// An MPI library, opened at run time: Open MPI or MPICH.
///
/// Unchecked Sendable: the table is filled once and never changed.
struct MPILibrary: @unchecked Sendable {
    /// The library's functions.
    let functions: apus_mpi
    /// "Open MPI" or "MPICH".
    let name: String

    /// Opens the library that belongs to a launcher.
    /// - Parameter path: of the library, where the usual names are not wanted.
    /// - Throws: ``CommunicationError/library(_:)`` with what was looked for.
    init(for launcher: LaunchEnvironment.Launcher, path: String?) throws(CommunicationError) {
        let kind: apus_mpi_kind =
            switch launcher {
            case .openMPI: APUS_MPI_OPEN_MPI
            case .mpich: APUS_MPI_MPICH
            case .slurm, .variables, .none: APUS_MPI_ANY
            }
        var table = apus_mpi()
        var message = [CChar](repeating: 0, count: 2048)
        let opened = apus_mpi_open(kind, path, &table, &message, message.count)
        guard opened != APUS_MPI_ANY else { throw .library("MPI: \(Self.text(message))") }
        functions = table
        name = opened == APUS_MPI_OPEN_MPI ? "Open MPI" : "MPICH"
    }

    /// Throws what an error code of a call means.
    func check(_ call: String, _ code: Int32) throws(CommunicationError) {
        guard code != 0 else { return }
        var text = [CChar](repeating: 0, count: Int(APUS_MPI_TEXT_BYTES))
        let reason = functions.error_text(code, &text) == 0 ? Self.text(text) : "error \(code)"
        throw .call("\(name)'s \(call)", reason: reason)
    }

    /// The library's own words for its version, the first line.
    var version: String {
        var text = [CChar](repeating: 0, count: Int(APUS_MPI_TEXT_BYTES))
        guard functions.version_text(&text) == 0 else { return name }
        return String(Self.text(text).prefix { $0 != "\n" && $0 != "," })
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
